"""Convert a model to MLX's format, packed or not, and measure what that costs."""

from mlx_qwen_embeddings.tools.convert.conversion import Conversion, Cost, convert
from mlx_qwen_embeddings.tools.convert.packing import ConversionError, Packing

__all__ = ["Conversion", "ConversionError", "Cost", "Packing", "convert"]
