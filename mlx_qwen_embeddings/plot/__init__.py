"""Draw embeddings and measurements as matplotlib figures (extra ``plot``). Comparing vectors is in `similarity`."""

from mlx_qwen_embeddings._extras import require

require("matplotlib", "plot", "mlx_qwen_embeddings.plot")

from mlx_qwen_embeddings.plot.bench import plot_bench  # noqa: E402 - the line above says what to install
from mlx_qwen_embeddings.plot.curve import dimension_curve  # noqa: E402 - as above
from mlx_qwen_embeddings.plot.heatmap import similarity_heatmap  # noqa: E402 - as above
from mlx_qwen_embeddings.plot.map import embedding_map  # noqa: E402 - as above

__all__ = ["dimension_curve", "embedding_map", "plot_bench", "similarity_heatmap"]
