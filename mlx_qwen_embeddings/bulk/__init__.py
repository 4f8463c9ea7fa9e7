"""Files in, vectors out, continued after a kill.

``embed_file`` makes one file of one; ``embed_parquet`` a folder of parts, which many machines can share.
"""

from mlx_qwen_embeddings.bulk.job import BulkReport, embed_file
from mlx_qwen_embeddings.bulk.whole_corpus import CorpusReport, embed_parquet

__all__ = ["BulkReport", "CorpusReport", "embed_file", "embed_parquet"]
