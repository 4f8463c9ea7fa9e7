"""Engines that a whole process shares, and the limit on how many of their models are in memory at once."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

from mlx_qwen_embeddings._fork import ForkSafeLock
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.model import OpenModel
from mlx_qwen_embeddings.engine.worker import Worker
from mlx_qwen_embeddings.registry import resolve
from mlx_qwen_embeddings.settings import Device, DType, EngineSettings

logger = logging.getLogger(__name__)


class LoadedModels(ForkSafeLock):
    """The workers that hold a model. Its lock is never held while a worker's lock is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition(self._lock)
        self.changes = 0
        self.holders: set[Worker] = set()

    def note_change(self) -> None:
        """Make those that wait look again: a worker became idle, freed its model or was closed."""
        with self.changed:
            self.changes += 1
            self.changed.notify_all()

    def after_fork_in_child(self) -> None:
        """Forget the workers: what the child inherited is the parent's memory until it is used."""
        super().after_fork_in_child()
        self.changed = threading.Condition(self._lock)
        self.holders = set()


@dataclass(frozen=True, slots=True)
class Place:
    """The claim of a shared engine to a place in memory.

    Attributes:
        models: Where places are given out.
        settings: The engine's; ``max_loaded_models`` and ``max_model_bytes`` apply when its model is loaded.
        stored_bytes: Returns the size of the model's files.
    """

    models: LoadedModels
    settings: EngineSettings
    stored_bytes: Callable[[], int]

    def enter(self, worker: Worker) -> bool:
        """Wait until the model fits into memory, where idle models make room, the least recently used one first.

        A model larger than ``max_model_bytes`` is admitted when there is no other. Called on the worker's own thread.

        Returns:
            False when the worker was closed meanwhile.
        """
        models, most_bytes = self.models, self.settings.max_model_bytes
        expected = 0 if most_bytes is None else worker.last_model_bytes or self.stored_bytes()
        while True:
            with models.changed:
                if worker.closed:
                    return False
                others = models.holders - {worker}
                held = sum(other.model_bytes for other in others)
                fits = not others or (
                    len(others) < self.settings.max_loaded_models and (most_bytes is None or held + expected <= most_bytes)
                )
                # Its own former thread may still be freeing the model.
                if fits and worker not in models.holders:
                    models.holders.add(worker)
                    return True
                seen = models.changes
            if not fits:
                _retire_one(others)
            with models.changed:
                while models.changes == seen:
                    models.changed.wait()

    def loaded(self, worker: Worker) -> None:
        """Free other models if this one turned out larger than its files."""
        most_bytes = self.settings.max_model_bytes
        if most_bytes is None:
            return
        with self.models.changed:
            others = self.models.holders - {worker}
        held = worker.model_bytes + sum(other.model_bytes for other in others)
        while held > most_bytes and (retired := _retire_one(others)):
            others.remove(retired)
            held -= retired.model_bytes

    def leave(self, worker: Worker) -> None:
        """Note that the model was freed, or not loaded after all."""
        logger.info("%r is no longer in memory; the next call loads it again", self.settings.model)
        with self.models.changed:
            self.models.holders.discard(worker)
        self.models.note_change()

    def note_change(self) -> None:
        """Note that the worker is idle or closed. Called under the worker's lock."""
        self.models.note_change()


def _retire_one(workers: set[Worker]) -> Worker | None:
    """Free the least recently used idle model, and return its worker; None when all are in use."""
    for worker in sorted(workers, key=lambda worker: worker.used_at):
        if worker.retire():
            return worker
    return None


EngineKey = tuple[str, tuple[tuple[str, str], ...], str | None, str, str]

_lock = ForkSafeLock()
_loaded = LoadedModels()
_engines: dict[EngineKey, EmbeddingEngine] = {}


def get_engine(
    model: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    dtype: DType | None = None,
    device: Device | None = None,
    **settings: Any,
) -> EmbeddingEngine:
    """Return the shared engine of a model; the same model, revision, dtype and device give the same engine.

    Args:
        model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
        revision: Branch, tag or commit on the Hub; None is the main branch.
        dtype: Compute type, see ``EngineSettings``.
        device: Where to compute, see ``EngineSettings``.
        **settings: Further fields of ``EngineSettings``. They apply when the engine is made; if it exists and they differ
            from its own, a warning says that they were not applied.

    Raises:
        UnknownModelError: When the name means nothing.
        pydantic.ValidationError: When a setting does not fit.
    """
    name = None if model is None else str(model)
    chosen: dict[str, Any] = {"model": name, "revision": revision, "dtype": dtype, "device": device}
    wanted = EngineSettings.from_env(**chosen, **settings)
    spec = resolve(wanted.model)
    # Two registered rows may put different prompts before one model's texts.
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
