"""Index the files of a folder in a database, and search them by meaning. The commands are in `cli`."""

from mlx_qwen_embeddings.search.database import embeddings_for
from mlx_qwen_embeddings.search.index import Hit, IndexReport, index_folder, search_folder

__all__ = ["Hit", "IndexReport", "embeddings_for", "index_folder", "search_folder"]
