"""Search a folder by meaning: ``index`` its files into a database on disk, ``search`` them by a question."""

from mlx_qwen_embeddings.search.index import IndexReport, index_folder
from mlx_qwen_embeddings.search.model import embeddings_for
from mlx_qwen_embeddings.search.query import Hit, search_folder

__all__ = ["Hit", "IndexReport", "embeddings_for", "index_folder", "search_folder"]
