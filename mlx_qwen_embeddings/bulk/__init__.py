"""Embed files: rows in, rows and vectors out, in parts that survive a kill.

``embed_file`` writes one file; ``embed_parquet`` writes a folder of Parquet files, alone or on many machines. Computing
vectors is the engine's work, and running on a cluster that of ``mlx_qwen_embeddings.ray``.
"""

from mlx_qwen_embeddings.bulk.corpus import CorpusReport, embed_parquet
from mlx_qwen_embeddings.bulk.file import BulkReport, embed_file

__all__ = ["BulkReport", "CorpusReport", "embed_file", "embed_parquet"]
