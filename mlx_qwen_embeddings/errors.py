"""The exceptions of this package; every one is an ``MLXQwenEmbeddingsError``."""

from collections.abc import Mapping


class MLXQwenEmbeddingsError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownModelError(MLXQwenEmbeddingsError, KeyError):
    """A model name that is neither an alias nor a local folder nor a Hub name."""

    def __str__(self) -> str:
        """Return the plain message: ``KeyError`` would put it in quotes."""
        return str(self.args[0]) if self.args else ""


class ModelLoadError(MLXQwenEmbeddingsError):
    """A model that cannot be found or loaded."""


class InputTooLongError(MLXQwenEmbeddingsError, ValueError):
    """A text longer than ``max_length`` under ``truncate="error"``."""


class InvalidTextError(MLXQwenEmbeddingsError, ValueError):
    """A string that no tokenizer can encode, such as one with a lone surrogate."""


class EmbeddingFailedError(MLXQwenEmbeddingsError):
    """Some texts of a call could not be embedded.

    Attributes:
        failures: Reason for each failed text, by its position in the call.
    """

    def __init__(self, message: str, failures: Mapping[int, BaseException] | None = None) -> None:
        """Store the message and the positions."""
        super().__init__(message)
        self.failures: dict[int, BaseException] = dict(failures or {})


class NonFiniteEmbeddingError(EmbeddingFailedError):
    """The model returned NaN or infinity for a text; the vector is neither returned nor cached."""


class EngineClosedError(MLXQwenEmbeddingsError):
    """The engine was closed, or its worker died, before the call was finished."""


class EngineBusyError(MLXQwenEmbeddingsError):
    """The queue is full, and the call has ``wait=False``."""


class EmbeddingTimeoutError(MLXQwenEmbeddingsError, TimeoutError):
    """The call took longer than its ``timeout``."""


class CacheFileError(MLXQwenEmbeddingsError):
    """The file of ``cache_path`` is not a cache of this package, or of a newer version; engines work without it."""


class IndexMismatchError(MLXQwenEmbeddingsError, ValueError):
    """A store whose vectors were made with another model or other options."""


class MissingExtraError(MLXQwenEmbeddingsError, ImportError):
    """An optional package is missing; the message has the pip command."""


class WorkersDiedError(MLXQwenEmbeddingsError):
    """Workers on a cluster died again and again; finished work is kept."""
