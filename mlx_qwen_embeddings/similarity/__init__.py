"""Compare, search, normalise, shorten and group vectors. No model is needed, and no index is kept.

Inputs are arrays or lists of real numbers, of shape (d,) or (n, d), and are never changed. Invalid input raises a
``ValueError`` that names the row. All functions need only numpy, except ``cluster``, which needs the extra ``notebooks``.
"""

from mlx_qwen_embeddings.similarity.clusters import Clusters, Pair, cluster, near_duplicates
from mlx_qwen_embeddings.similarity.compare import (
    METRICS,
    Metric,
    cosine,
    dot,
    euclidean,
    manhattan,
    normalize,
    top_k,
    truncate_dimensions,
)
from mlx_qwen_embeddings.similarity.rescoring import rescore, top_k_bits

__all__ = [
    "METRICS",
    "Clusters",
    "Metric",
    "Pair",
    "cluster",
    "cosine",
    "dot",
    "euclidean",
    "manhattan",
    "near_duplicates",
    "normalize",
    "rescore",
    "top_k",
    "top_k_bits",
    "truncate_dimensions",
]
