"""Pictures of embeddings and of measurements, as figures of matplotlib (extra ``notebooks``).

In a notebook the figures show their texts when the pointer rests on a point, without a server or an extension; stored,
printed or saved they are ordinary pictures. Colours are told apart by colour-blind readers: Okabe and Ito's, and viridis.
"""

from mlx_qwen_embeddings.plot.bench import plot_bench
from mlx_qwen_embeddings.plot.curve import dimension_curve
from mlx_qwen_embeddings.plot.heatmap import similarity_heatmap
from mlx_qwen_embeddings.plot.map import embedding_map
from mlx_qwen_embeddings.plot.picture import Picture

__all__ = ["Picture", "dimension_curve", "embedding_map", "plot_bench", "similarity_heatmap"]
