"""An engine's model: found and opened by the first call, at rest during a fork, loaded by the worker."""

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from mlx_qwen_embeddings._fork import Forkable, Stage, let_go, protect
from mlx_qwen_embeddings._threads import run_in_thread
from mlx_qwen_embeddings.cache.tiered import make_cache
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.fingerprint import fingerprint
from mlx_qwen_embeddings.checkpoint.hub import find_folder, open_folder
from mlx_qwen_embeddings.compute.mlx.backend import Backend, choose_backend
from mlx_qwen_embeddings.engine.batch import BatchEncoder
from mlx_qwen_embeddings.engine.worker import Worker
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.registry import ModelSpec, resolve
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.stats import StatsCounter
from mlx_qwen_embeddings.tokenization import TextTokenizer

OPEN_SECONDS = 10.0
"""How long a fork waits for the model to be opened; what takes longer can only be a download."""

logger = logging.getLogger(__name__)


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
        """Gather the facts."""
        return cls(files.dimensions, files.max_length, files.pooling, dict(files.prompts), backend.dtype, backend.device)


@dataclass(frozen=True, slots=True)
class Opened:
    """What callers need of an opened model; its weights belong to the worker.

    Attributes:
        files: The model's folder.
        backend: Where it computes.
        tokenizer: Safe to use from any thread.
        fingerprint: Hash of the content and the revision.
    """

    files: ModelFiles
    backend: Backend
    tokenizer: TextTokenizer
    fingerprint: str


def find_files(settings: EngineSettings) -> tuple[ModelFiles, Backend]:
    """Find or download the model's folder, and choose the back end.

    Raises:
        UnknownModelError: When the name means nothing.
        ModelLoadError: When the folder cannot be had.
        MissingExtraError: When MLX has no back end here.
    """
    spec = resolve(settings.model)
    backend = choose_backend(settings.device, settings.dtype)
    files = open_folder(spec, revision=settings.revision, offline=settings.offline, cache_dir=settings.cache_dir)
    return _checked(files, spec), backend


def read_facts(settings: EngineSettings) -> ModelFacts | None:
    """Read what the files on disk say of a model, without its weights and without asking the Hub.

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


def compute_type(settings: EngineSettings) -> str:
    """Return the compute type that settings lead to on this machine, whatever the model.

    Raises:
        ModelLoadError: When a GPU is asked for and MLX has none.
        MissingExtraError: When MLX has no back end here.
    """
    return choose_backend(settings.device, settings.dtype).dtype


def open_tokenizer(files: ModelFiles, backend: Backend) -> Opened:
    """Open the tokenizer and take the fingerprint."""
    return Opened(files, backend, files.tokenizer(), fingerprint(files))


def _checked(files: ModelFiles, spec: ModelSpec) -> ModelFiles:
    """Refuse, before any weight is read, a model that is not supported or whose files have the wrong form."""
    files = replace(files, known_prompts=spec.prompts)
    try:
        _ = files.family, files.pooling, files.prompts, files.dimensions, files.max_length, files.chat_template
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{files.path}: a JSON file lacks something or holds the wrong type ({error!r}): download it again"
        ) from error
    return files


class OpenModel(Forkable):
    """What an engine holds on to: settings, cache, counters, the worker, and the model once it is opened."""

    def __init__(self, settings: EngineSettings) -> None:
        """Prepare; nothing is read before the first call."""
        self.settings = settings
        self.stats = StatsCounter()
        self.cache = make_cache(settings, self.stats)
        self.worker = Worker(
            self._open_encoder,
            batch_tokens=settings.batch_tokens,
            queue_tokens=settings.queue_tokens,
            stats=self.stats,
        )
        self.opened: Opened | None = None
        self._in_thread: Future[Opened] | None = None
        self._was_loaded = False
        self._warned = False
        self.after_fork_in_child()
        protect(self, Stage.OPENING)

    def open(self) -> Opened:
        """Find the model, once, and start to load it on the worker's thread.

        Raises:
            UnknownModelError: When the name means nothing.
            ModelLoadError: When the model cannot be had or read; the next call tries again.
            MissingExtraError: When MLX has no back end here.
        """
        self.worker.check_open()
        with self._opening:
            if self.opened is not None:
                return self.opened
            self._found = find_files(self.settings)
            self.worker.start()  # weights load while the tokenizer does
            self.opened = opened = open_tokenizer(*self._found)
            return opened

    def open_in_thread(self) -> Future[Opened]:
        """Open the model in a thread that all callers share, and that goes on when none of them waits any more.

        Raises:
            EngineClosedError: When the engine is closed.
            RuntimeError: When no thread can be started.
        """
        self.worker.check_open()
        with self._starting:
            if self._in_thread is None or (self._in_thread.done() and self.opened is None):
                self._in_thread = run_in_thread(self.open, "mlx-qwen-open")
            return self._in_thread

    def known(self) -> Opened:
        """Return the model as it was opened, even if it is closed by now; open it if it never was."""
        return self.opened or self.open()

    def stored_bytes(self) -> int:
        """Return the size of the weights' files, once the model is found."""
        files, _ = self._found
        paths = [files.gguf] if files.gguf else files.path.glob("*.safetensors")
        return sum(path.stat().st_size for path in paths)

    def _open_encoder(self) -> BatchEncoder:
        # Imported on the worker's thread, after the back end was chosen: it imports MLX.
        from mlx_qwen_embeddings.compute.encoder import Encoder  # noqa: PLC0415 - as said above

        self._check_unchanged()
        with self.stats.timed("load_seconds"):
            encoder = Encoder(*self._found, lanes=self.settings.lanes)
        self._was_loaded = True
        return encoder

    def _check_unchanged(self) -> None:
        """Refuse weights that have changed since the model was opened: their vectors would be cached under the old key.

        Raises:
            ModelLoadError: When they have. An engine that never gave a vector opens the folder again with the next call.
        """
        files, _ = self._found
        if self.opened is None or fingerprint(files) == self.opened.fingerprint:
            return
        remedy = "close this engine and open a new one"
        if not self._was_loaded:
            self.opened, remedy = None, "the next call opens it again"
        raise ModelLoadError(
            f"{files.path} was changed since this engine opened it, and vectors of two models do not compare: {remedy}"
        )

    def warn_truncated(self, texts: int, longest: int, max_length: int) -> None:
        """Count texts that were cut, and warn once."""
        self.stats.add(truncations=texts)
        if not self._warned:
            self._warned = True
            logger.warning(
                "%d text(s) were cut at max_length=%d tokens (the longest has %d). Raise max_length, split them, or pass "
                'truncate="error". This warning is given once; engine.stats().truncations goes on counting.',
                texts,
                max_length,
                longest,
            )

    def before_fork(self) -> None:
        """Wait while a thread opens the model: a module that it imports would stay half imported in the child."""
        self._opening.acquire(timeout=OPEN_SECONDS)

    def after_fork_in_parent(self) -> None:
        """Carry on."""
        let_go(self._opening)

    def after_fork_in_child(self) -> None:
        """Replace the locks: threads that held the old ones do not exist here."""
        self._opening = threading.RLock()
        self._starting = threading.Lock()
        self._in_thread = None
