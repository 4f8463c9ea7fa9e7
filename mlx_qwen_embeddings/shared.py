"""The engines that everything in a process shares: the weights of a model are in memory once."""

import logging
import os
import threading
from typing import Any

from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.loaded import LoadedModels, Place
from mlx_qwen_embeddings.registry import resolve
from mlx_qwen_embeddings.settings import Device, DType, EngineSettings

logger = logging.getLogger(__name__)

Identity = tuple[str, tuple[tuple[str, str], ...], str | None, str, str]

_lock = threading.Lock()
_loaded = LoadedModels()
_engines: dict[Identity, EmbeddingEngine] = {}


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
    identity = (spec.source, tuple(sorted(spec.prompts.items())), wanted.revision, wanted.dtype, wanted.device)
    with _lock:
        engine = _engines.get(identity)
        if engine is None or engine.closed:
            engine = EmbeddingEngine(settings=wanted)
            core = engine._core  # noqa: SLF001 - a place is for those to have that are made here
            core.worker.place = Place(_loaded, wanted, core.stored_bytes)
            _engines[identity] = engine
            return engine
    ignored = [name for name in settings if getattr(engine.settings, name) != getattr(wanted, name)]
    if ignored:
        logger.warning(
            "the engine of %r is open already, so %s was not applied: close it first, or use EmbeddingEngine(...)",
            wanted.model,
            ", ".join(ignored),
        )
    return engine


def _reset_lock() -> None:
    global _lock  # noqa: PLW0603 - a forked child needs a fresh one
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_lock)
