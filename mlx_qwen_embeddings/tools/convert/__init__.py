"""Convert a checkpoint to fewer bits, and measure what that costs."""

from mlx_qwen_embeddings.tools.convert.conversion import convert

__all__ = ["convert"]
