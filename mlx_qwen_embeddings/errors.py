"""The exceptions of this package; every one is an ``MLXQwenEmbeddingsError``."""

from collections.abc import Mapping


class MLXQwenEmbeddingsError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownModelError(MLXQwenEmbeddingsError, KeyError):
    """A model name that is no alias, no local folder and no Hub name."""

    def __str__(self) -> str:
        """Give the plain message: ``KeyError`` would put it in quotes."""
        return str(self.args[0]) if self.args else ""


class ModelLoadError(MLXQwenEmbeddingsError):
    """A model that cannot be found, read or built."""


class InputTooLongError(MLXQwenEmbeddingsError, ValueError):
    """A text longer than ``max_length`` under ``truncate="error"``."""


class InvalidTextError(MLXQwenEmbeddingsError, ValueError):
    """A string that no tokenizer can take, such as one with a lone surrogate."""


class EmbeddingFailedError(MLXQwenEmbeddingsError):
    """Some texts of a call could not be embedded.

    Attributes:
        failures: Position of each failed text in the call, with its reason.
    """

    def __init__(self, message: str, failures: Mapping[int, BaseException] | None = None) -> None:
        """Keep the positions beside the message."""
        super().__init__(message)
        self.failures: dict[int, BaseException] = dict(failures or {})


class NonFiniteEmbeddingError(EmbeddingFailedError):
    """The model gave NaN or infinity for a text; the vector is neither returned nor cached."""


class EngineClosedError(MLXQwenEmbeddingsError):
    """The engine was closed, or its worker died, before the call was served."""


class EngineBusyError(MLXQwenEmbeddingsError):
    """The queue is full and the caller asked not to wait."""


class EmbeddingTimeoutError(MLXQwenEmbeddingsError, TimeoutError):
    """The call took longer than its ``timeout``."""


class CacheFileError(MLXQwenEmbeddingsError):
    """The file of ``cache_path`` is no cache of this package, or of a newer version; engines go on without it."""


class IndexMismatchError(MLXQwenEmbeddingsError, ValueError):
    """A store whose vectors were made otherwise than those that are asked for."""


class MissingExtraError(MLXQwenEmbeddingsError, ImportError):
    """An optional package is needed; the message gives the pip command."""


class WorkersDiedError(MLXQwenEmbeddingsError):
    """Workers on a cluster died again and again; what was done is kept."""
