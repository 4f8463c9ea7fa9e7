"""Embed Ray datasets and Parquet corpora on a cluster, with one engine in each actor.

Install this package on every node, with the back end for that node's hardware.
"""

from mlx_qwen_embeddings._extras import require

require("ray.data", "ray", "mlx_qwen_embeddings.ray")

from mlx_qwen_embeddings.ray.corpus import RayRunner  # noqa: E402 - the line above says what to install when ray is missing
from mlx_qwen_embeddings.ray.dataset import embed_dataset  # noqa: E402 - as above
from mlx_qwen_embeddings.ray.placement import Placement  # noqa: E402 - as above

__all__ = ["Placement", "RayRunner", "embed_dataset"]
