"""Search a folder by meaning: ``index`` its files into a database on disk, ``search`` them by a question."""

from mlx_qwen_embeddings.search.database import embeddings_for
from mlx_qwen_embeddings.search.index import Hit, IndexReport, index_folder, search_folder

__all__ = ["Hit", "IndexReport", "embeddings_for", "index_folder", "search_folder"]
