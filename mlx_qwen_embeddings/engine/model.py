"""The life of an engine: opened by the first call, rested for a fork, closed for good."""

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from mlx_qwen_embeddings._fork import Forkable, Stage, let_go, protect
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


OPEN_SECONDS = 10.0
"""Longest wait for the model to be opened when a process forks: after that it can only be a download."""

logger = logging.getLogger(__name__)


class Core(Forkable):
    """What an engine holds on to: settings, cache, counters, worker, and the model once it is opened."""

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
        self._opening = threading.RLock()
        self._asking = threading.Lock()
        self._beside: Future[Opened] | None = None
        self._was_loaded = False
        self._warned = False
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
            self._located = locate(self.settings)
            self.worker.start()  # weights load while the tokenizer does
            self.opened = opened = describe(*self._located)
            return opened

    def open_beside(self) -> "Future[Opened]":
        """Do as ``open`` in a thread that all callers share, and that goes on when none of them waits for it any more.

        Raises:
            EngineClosedError: When the engine is closed.
            RuntimeError: When no thread can be had.
        """
        self.worker.check_open()
        with self._asking:
            if self._beside is None or (self._beside.done() and self.opened is None):
                opening: Future[Opened] = Future()
                opening.set_running_or_notify_cancel()  # from now on no caller can cancel it
                threading.Thread(target=self._settle, args=(opening,), name="mlx-qwen-open", daemon=True).start()
                self._beside = opening
            return self._beside

    def _settle(self, opening: "Future[Opened]") -> None:
        try:
            opening.set_result(self.open())
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait
            opening.set_exception(error)

    def known(self) -> Opened:
        """Give the model as it was opened, also when it is closed by now; one that never was is opened."""
        return self.opened or self.open()

    def stored_bytes(self) -> int:
        """Give the size of the weights' files, once the model is found."""
        files, _ = self._located
        paths = [files.gguf] if files.gguf else files.path.glob("*.safetensors")
        return sum(path.stat().st_size for path in paths)

    def _open_encoder(self) -> BatchEncoder:
        # Imported on the worker's thread, after the back end was chosen: it imports MLX.
        from mlx_qwen_embeddings.compute.encoder import Encoder  # noqa: PLC0415 - as said above

        self._check_unchanged()
        with self.stats.timed("load_seconds"):
            encoder = Encoder(*self._located, lanes=self.settings.lanes)
        self._was_loaded = True
        return encoder

    def _check_unchanged(self) -> None:
        """Refuse to load weights from a folder that holds others by now: their vectors would go under the old key.

        Raises:
            ModelLoadError: When it does. An engine that never gave a vector opens the folder anew with the next call.
        """
        files, _ = self._located
        if self.opened is None or fingerprint(files) == self.opened.identity:
            return
        remedy = "close this engine and open a new one"
        if not self._was_loaded:
            self.opened, remedy = None, "the next call opens it anew"
        message = (
            f"{files.path} was changed since this engine opened it, and vectors of two models do not compare: {remedy}"
        )
        raise ModelLoadError(message)

    def warn_truncated(self, texts: int, longest: int, max_length: int) -> None:
        """Count texts that were cut, and say so once."""
        self.stats.add(truncations=texts)
        if not self._warned:
            self._warned = True
            logger.warning(
                "%d text(s) were cut at max_length=%d tokens (the longest has %d). Raise max_length, split them, or pass "
                'truncate="error". Said once; engine.stats().truncations counts on.',
                texts,
                max_length,
                longest,
            )

    def before_fork(self) -> None:
        """Wait while a thread opens the model: what it imports would stay half imported in the child."""
        self._opening.acquire(timeout=OPEN_SECONDS)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        let_go(self._opening)

    def after_fork_in_child(self) -> None:
        """Take fresh locks: threads that held the old ones are gone."""
        self._opening = threading.RLock()
        self._asking = threading.Lock()
        self._beside = None
        self.stats.lock = threading.Lock()
