"""Which of the shared models are in memory: at most so many, the least recently used making room, none while in use."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlx_qwen_embeddings._fork import Forkable, ForkSafeLock, Stage, let_go, protect
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.model import OpenModel
from mlx_qwen_embeddings.engine.worker import Worker
from mlx_qwen_embeddings.registry import resolve
from mlx_qwen_embeddings.settings import Device, DType, EngineSettings

logger = logging.getLogger(__name__)


class LoadedModels(Forkable):
    """The workers that hold a model. Its lock is never held while a worker's is asked for."""

    def __init__(self) -> None:
        """Start with none."""
        self._changed = threading.Condition()
        self._changes = 0
        self._holders: set[Worker] = set()
        protect(self, Stage.LOCKING)

    def enter(self, worker: Worker, most: int, most_bytes: int | None, expected_bytes: int) -> bool:
        """Wait until a model fits in, and let those that are least recently used and idle make room.

        Args:
            worker: Asks from its own thread, before it loads.
            most: Models in memory, its own included.
            most_bytes: Size of their weights, its own included; None sets no bound. A model that is larger than that
                gets in when there is no other.
            expected_bytes: Size of its own.

        Returns:
            False when the worker was closed while it waited.
        """
        while True:
            with self._changed:
                if worker.closed:
                    return False
                others = self._holders - {worker}
                held = sum(other.model_bytes for other in others)
                fits = not others or (len(others) < most and (most_bytes is None or held + expected_bytes <= most_bytes))
                # Its own former thread may still be freeing what it held.
                if fits and worker not in self._holders:
                    self._holders.add(worker)
                    return True
                seen = self._changes
            if not fits:
                _retire_one(others)
            with self._changed:
                while self._changes == seen:
                    self._changed.wait()

    def trim(self, worker: Worker, most_bytes: int) -> None:
        """Let others make room for a model that turned out larger than expected."""
        with self._changed:
            others = self._holders - {worker}
        held = worker.model_bytes + sum(other.model_bytes for other in others)
        while held > most_bytes and (gone := _retire_one(others)):
            others.remove(gone)
            held -= gone.model_bytes

    def leave(self, worker: Worker) -> None:
        """Note that a worker freed its model."""
        with self._changed:
            self._holders.discard(worker)
        self.note_change()

    def note_change(self) -> None:
        """Let those that wait look again: a worker became idle, freed its model or was closed."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Hold still."""
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        let_go(self._changed)

    def after_fork_in_child(self) -> None:
        """Start afresh: what the child inherited is the parent's memory until it is used."""
        self._changed = threading.Condition()
        self._holders = set()


def _retire_one(workers: set[Worker]) -> Worker | None:
    """Free the least recently used model that is idle; None when all are in use."""
    for worker in sorted(workers, key=lambda worker: worker.used_at):
        if worker.retire():
            return worker
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """One shared engine's claim to a place in memory.

    Attributes:
        models: Where places are given out.
        settings: ``max_loaded_models`` and ``max_model_bytes`` hold when this engine's model is loaded.
        stored_bytes: Gives the size of the model's files.
    """

    models: LoadedModels
    settings: EngineSettings
    stored_bytes: Callable[[], int]

    def enter(self, worker: Worker) -> bool:
        """Wait for a place; False when the worker was closed meanwhile."""
        limits = self.settings
        expected = 0 if limits.max_model_bytes is None else worker.last_model_bytes or self.stored_bytes()
        return self.models.enter(worker, limits.max_loaded_models, limits.max_model_bytes, expected)

    def loaded(self, worker: Worker) -> None:
        """Note that the model is in memory, and its size known."""
        if self.settings.max_model_bytes is not None:
            self.models.trim(worker, self.settings.max_model_bytes)

    def leave(self, worker: Worker) -> None:
        """Give the place back."""
        logger.info("%r is no longer in memory; the next call loads it again", self.settings.model)
        self.models.leave(worker)

    def note_change(self) -> None:
        """Tell those that wait that the worker is idle, or closed."""
        self.models.note_change()


EngineKey = tuple[str, tuple[tuple[str, str], ...], str | None, str, str]

_lock = ForkSafeLock()
_loaded = LoadedModels()
_engines: dict[EngineKey, EmbeddingEngine] = {}


def get_engine(
    model: str | None = None,
    *,
    revision: str | None = None,
    dtype: DType | None = None,
    device: Device | None = None,
    **settings: Any,
) -> EmbeddingEngine:
    """Give the shared engine of a model: the same model, revision, dtype and device give the same engine.

    Args:
        model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
        revision: Branch, tag or commit on the Hub; None is the main branch.
        dtype: Compute type, see ``EngineSettings``.
        device: Where to compute, see ``EngineSettings``.
        **settings: Further fields of ``EngineSettings``. They shape the engine when it is made; for one that exists they
            are not applied, and a warning says so if they differ.

    Raises:
        UnknownModelError: When the name means nothing.
        pydantic.ValidationError: When a setting does not fit.
    """
    name = None if model is None else str(model)
    chosen: dict[str, Any] = {"model": name, "revision": revision, "dtype": dtype, "device": device}
    wanted = EngineSettings.from_env(**chosen, **settings)
    spec = resolve(wanted.model)
    # Two registered rows may ask for different prompts in front of one model's texts.
    key = (spec.source, tuple(sorted(spec.prompts.items())), wanted.revision, wanted.dtype, wanted.device)
    with _lock:
        engine = _engines.get(key)
    if engine is None or engine.closed:
        prepared = OpenModel(wanted)  # not under the lock, which a fork waits for
        prepared.worker.place = Place(_loaded, wanted, prepared.stored_bytes)
        made = EmbeddingEngine.of(prepared)
        with _lock:
            engine = _engines.get(key)
            if engine is None or engine.closed:
                _engines[key] = made
                return made
    ignored = [name for name in settings if getattr(engine.settings, name) != getattr(wanted, name)]
    if ignored:
        logger.warning(
            "the engine of %r is open already, so %s was not applied: close it first, or use EmbeddingEngine(...)",
            wanted.model,
            ", ".join(ignored),
        )
    return engine
