"""Local text embeddings with Qwen3-Embedding on MLX, for LangChain and LlamaIndex.

Names are imported when they are first used: ``import mlx_qwen_embeddings`` alone loads neither MLX nor numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_qwen_embeddings.engine import EmbeddingEngine
    from mlx_qwen_embeddings.engine.shared import get_engine
    from mlx_qwen_embeddings.registry import ModelSpec, list_models, register
    from mlx_qwen_embeddings.settings import EngineSettings
    from mlx_qwen_embeddings.stats import EngineStats
    from mlx_qwen_embeddings.tools.verify import VerifyReport, verify

__version__ = "0.1.0"

_HOMES = {
    "EmbeddingEngine": "engine",
    "EngineSettings": "settings",
    "EngineStats": "stats",
    "ModelSpec": "registry",
    "VerifyReport": "tools.verify",
    "get_engine": "engine.shared",
    "list_models": "registry",
    "register": "registry",
    "verify": "tools.verify",
}

__all__ = [
    "EmbeddingEngine",
    "EngineSettings",
    "EngineStats",
    "ModelSpec",
    "VerifyReport",
    "__version__",
    "get_engine",
    "list_models",
    "register",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
