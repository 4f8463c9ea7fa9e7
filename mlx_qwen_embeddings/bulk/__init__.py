"""Embed the rows of files in parts, so that a run that was killed can continue.

``embed_file`` writes one file. ``embed_parquet`` writes a folder of Parquet files, on one machine or many. The engine
computes the vectors; ``mlx_qwen_embeddings.ray`` runs jobs on a cluster.
"""

from mlx_qwen_embeddings.bulk.corpus import CorpusReport, embed_parquet
from mlx_qwen_embeddings.bulk.file import BulkReport, embed_file

__all__ = ["BulkReport", "CorpusReport", "embed_file", "embed_parquet"]
