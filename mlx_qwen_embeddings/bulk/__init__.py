"""Files in, vectors out: ``embed_file`` reads rows, writes them with a vector each, and continues after a kill."""

from mlx_qwen_embeddings.bulk.job import BulkReport, embed_file

__all__ = ["BulkReport", "embed_file"]
