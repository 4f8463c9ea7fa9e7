"""From settings to a model that is ready to be loaded: files, tokenizer, back end, identity."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from mlx_qwen_embeddings.backend import Backend, choose_backend
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.fingerprint import fingerprint
from mlx_qwen_embeddings.hub import find_folder, open_folder
from mlx_qwen_embeddings.model_files import ModelFiles
from mlx_qwen_embeddings.models import Pooling
from mlx_qwen_embeddings.registry import ModelSpec, resolve
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.tokenization import TextTokenizer


class ModelFacts(NamedTuple):
    """What a model's files say, and what it is computed with."""

    dimensions: int
    max_length: int
    pooling: Pooling
    prompts: dict[str, str]
    dtype: str
    device: str

    @classmethod
    def of(cls, files: ModelFiles, backend: Backend) -> Self:
        """Gather them."""
        return cls(files.dimensions, files.max_length, files.pooling, dict(files.prompts), backend.dtype, backend.device)


@dataclass(frozen=True, slots=True)
class Opened:
    """All that callers need of a model; its weights belong to the worker.

    Attributes:
        files: The model's folder.
        backend: Where it computes.
        tokenizer: Safe to use from any thread.
        identity: Fingerprint of the content and the revision.
    """

    files: ModelFiles
    backend: Backend
    tokenizer: TextTokenizer
    identity: str

    @property
    def facts(self) -> ModelFacts:
        """Give what is worth telling others."""
        return ModelFacts.of(self.files, self.backend)


def locate(settings: EngineSettings) -> tuple[ModelFiles, Backend]:
    """Find, or download, the model's folder and choose the back end.

    Raises:
        UnknownModelError: When the name means nothing.
        ModelLoadError: When the folder cannot be had.
        MissingExtraError: When MLX has no back end here.
    """
    spec = resolve(settings.model)
    backend = choose_backend(settings.device, settings.dtype)
    files = open_folder(spec, revision=settings.revision, offline=settings.offline, cache_dir=settings.cache_dir)
    return _checked(files, spec), backend


def look(settings: EngineSettings) -> ModelFacts | None:
    """Read what the files on disk say of a model: no weights, and the Hub is not asked.

    Returns:
        None when the model has yet to be downloaded.

    Raises:
        UnknownModelError: When the name means nothing.
        ModelLoadError: When the files are at fault.
        MissingExtraError: When MLX has no back end here.
    """
    spec = resolve(settings.model)
    files = find_folder(spec, revision=settings.revision, cache_dir=settings.cache_dir)
    if files is None:
        return None
    return ModelFacts.of(_checked(files, spec), choose_backend(settings.device, settings.dtype))


def _checked(files: ModelFiles, spec: ModelSpec) -> ModelFiles:
    """Refuse what is not served, or not of the form that it should have, before any weight is read."""
    files = replace(files, known_prompts=spec.prompts)
    try:
        _ = files.family, files.pooling, files.prompts, files.dimensions, files.max_length, files.chat_template
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{files.path}: a JSON file lacks something or holds the wrong type ({error!r}): download it again"
        raise ModelLoadError(message) from error
    return files


def describe(files: ModelFiles, backend: Backend) -> Opened:
    """Read the tokenizer and take the fingerprint."""
    return Opened(files, backend, files.tokenizer(), fingerprint(files))
