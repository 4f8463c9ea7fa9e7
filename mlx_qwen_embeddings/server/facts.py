"""What is told of the models that are served, whether they are in memory or not."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from mlx_qwen_embeddings.backend import choose_backend
from mlx_qwen_embeddings.errors import MissingExtraError, MLXQwenEmbeddingsError, ModelLoadError
from mlx_qwen_embeddings.opening import ModelFacts, look
from mlx_qwen_embeddings.settings import EngineSettings


class KnownFacts:
    """Facts by name, of a model's engine or else of its files, remembered once known. Used on the event loop alone."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings of the engines, without the model."""
        self._settings = settings
        self._known: dict[str, ModelFacts] = {}
        self._dtype: str | None = None

    def remember(self, name: str, facts: ModelFacts) -> None:
        """Note what a model's engine says."""
        self._known[name] = facts

    async def of(self, names: Collection[str]) -> dict[str, ModelFacts | None]:
        """Give facts; None for a model that has yet to be downloaded, or whose files are at fault: loading it says how."""
        unknown = [name for name in names if name not in self._known]
        if unknown:
            for name, facts in await asyncio.to_thread(self._read, unknown):
                if facts is not None:
                    self._known.setdefault(name, facts)
        return {name: self._known.get(name) for name in names}

    async def dtype(self) -> str | None:
        """Give the compute type, which no model's files decide; None when there is no back end for it."""
        if self._dtype is None:
            self._dtype = await asyncio.to_thread(self._choose)
        return self._dtype

    def _read(self, names: list[str]) -> list[tuple[str, ModelFacts | None]]:
        return [(name, self._look(name)) for name in names]

    def _look(self, name: str) -> ModelFacts | None:
        try:
            return look(EngineSettings.from_env(model=name, **self._settings))
        except (MLXQwenEmbeddingsError, OSError):
            return None

    def _choose(self) -> str | None:
        settings = EngineSettings.from_env(**self._settings)
        try:
            return choose_backend(settings.device, settings.dtype).dtype
        except (MissingExtraError, ModelLoadError):
            return None
