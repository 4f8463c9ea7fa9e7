"""The engine: texts in, vectors out, from any thread, event loop or process; it imports no tensor framework."""

from mlx_qwen_embeddings.engine.engine import EmbeddingEngine, Vectors

__all__ = ["EmbeddingEngine", "Vectors"]
