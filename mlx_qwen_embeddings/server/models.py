"""The models of a server and their engines, which are opened and loaded when they are first asked for."""

import asyncio
import logging
from typing import NamedTuple, cast

from mlx_qwen_embeddings._threads import run_in_thread
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.model import ModelFacts, compute_type, read_facts
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.errors import MissingExtraError, MLXQwenEmbeddingsError, ModelLoadError, UnknownModelError
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.registry import ModelSpec, list_models, resolve
from mlx_qwen_embeddings.server.errors import LOADING_SECONDS, ApiError
from mlx_qwen_embeddings.server.settings import ServerSettings
from mlx_qwen_embeddings.settings import EngineSettings

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a failed warm-up is tried again; each pause is twice the one before."""

logger = logging.getLogger(__name__)


def _log_failure(task: "asyncio.Task[EmbeddingEngine]") -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("cannot load: %s", error, extra={"model": task.get_name()})


class Asked(NamedTuple):
    """A model name from a request: the name it is served under, and the role at its end, if there is one."""

    name: str
    role: Role | None


class Models:
    """The models of a server. Used only on its event loop, except for `facts` and `dtype`.

    Raises:
        UnknownModelError: When a name of the settings is unknown.
    """

    def __init__(self, settings: ServerSettings, engines: EngineSettings) -> None:
        self._load_wait = settings.load_wait
        self._settings = engines.model_dump(exclude={"model"}, exclude_unset=True)
        first = settings.models[0] if settings.models and "model" not in engines.model_fields_set else engines.model
        self.default = first
        warm = (first,) if settings.warm is None else settings.warm
        self.specs: dict[str, ModelSpec] = {}
        self._names: dict[str, str] = {}
        # Unlike a request, the operator may also name a folder or any model on the Hub.
        for name in settings.models or (*(spec.name for spec in list_models()), first, *warm):
            if name.lower() not in self._names:
                spec = self.specs[name] = resolve(name)
                for other in (name, spec.name, *spec.aliases, *(() if spec.local else (spec.source,))):
                    self._names.setdefault(other.lower(), name)
        self.find(first)
        self.warm = tuple(self.find(name).name for name in warm)
        self.engines: dict[str, EmbeddingEngine] = {}
        self._loading: dict[str, asyncio.Task[EmbeddingEngine]] = {}
        self._loaded_once: set[str] = set()

    def find(self, name: str) -> Asked:
        """Look up a name, which may end in ``:query`` or ``:document``.

        Raises:
            UnknownModelError: When no such model is served.
        """
        known = self._names.get(name.strip().lower())
        if known is not None:
            return Asked(known, None)
        stem, _, role = name.rpartition(":")
        known = self._names.get(stem.strip().lower())
        if known is None or role not in {"query", "document"}:
            raise UnknownModelError(
                f"the model {name!r} is not served here: {', '.join(self.specs)} are, also with :query or :document"
            )
        return Asked(known, cast("Role", role))

    async def engine(self, asked: Asked) -> EmbeddingEngine:
        """Return a model's engine, with the model in memory.

        Raises:
            ApiError: With status 503 when it is still loading after ``load_wait`` seconds; the loading goes on.
            ModelLoadError: When it cannot be loaded.
        """
        engine = self.engines.get(asked.name)
        if engine is not None and engine.loaded:
            return engine
        task = self._task(asked.name)
        await asyncio.wait([task], timeout=self._load_wait)
        if not task.done():
            message = f"the model {asked.name!r} is still loading: try again in a while"
            raise ApiError(503, message, "model_loading", retry_after=LOADING_SECONDS)
        return task.result()

    def _task(self, name: str) -> "asyncio.Task[EmbeddingEngine]":
        task = self._loading.get(name)
        if task is None or task.done():
            task = self._loading[name] = asyncio.create_task(self._load(name), name=name)
            task.add_done_callback(_log_failure)  # the requests that waited for it may have got their 503 long ago
        return task

    async def _load(self, name: str) -> EmbeddingEngine:
        engine = self.engines[name] = get_engine(name, **self._settings)
        logger.info("loading", extra={"model": name})
        # A daemon thread: the process can exit meanwhile, and a download can take an hour.
        await asyncio.wrap_future(run_in_thread(engine.warmup, "mlx-qwen-loading"))
        self._loaded_once.add(name)
        logger.info("loaded", extra={"model": name, "seconds": round(engine.stats().load_seconds, 3)})
        return engine

    def facts(self, name: str) -> ModelFacts | None:
        """Return what is known of a model, or None when it is not downloaded or its files are faulty. It may read files."""
        if name in self._loaded_once:
            return self.engines[name].facts
        try:
            return read_facts(EngineSettings.from_env(model=name, **self._settings))
        except (MLXQwenEmbeddingsError, OSError):
            return None

    def dtype(self) -> str | None:
        """Return the compute type of all models, or None when there is no back end. Call it on another thread."""
        try:
            return compute_type(EngineSettings.from_env(**self._settings))
        except (MissingExtraError, ModelLoadError):
            return None

    async def warm_up(self) -> None:
        """Load the models of ``warm`` one after the other; try those that fail again after a pause."""
        pause = FIRST_PAUSE
        while True:
            for name in self.warm:
                if name not in self._loaded_once:
                    await asyncio.wait([self._task(name)])
            if self.ready:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    @property
    def ready(self) -> bool:
        """Whether every model of ``warm`` has been loaded once; one that has since made room for another counts."""
        return self._loaded_once.issuperset(self.warm)

    async def close(self) -> None:
        """Close the engines."""
        for task in self._loading.values():
            task.cancel()
        for engine in self.engines.values():
            await asyncio.to_thread(engine.close)
