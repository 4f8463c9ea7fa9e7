"""LangChain: ``MLXQwenEmbeddings``, an ``Embeddings`` on the shared engine."""

from os import PathLike
from typing import Any, Unpack

from mlx_qwen_embeddings._adapter import AdapterFields, ModelOptions, to_floats, to_floats_in_turns
from mlx_qwen_embeddings._extras import require

require("langchain_core.embeddings", "langchain", "mlx_qwen_embeddings.langchain")

from langchain_core.embeddings import Embeddings  # noqa: E402 - the line above says what to install when this is missing


class MLXQwenEmbeddings(ModelOptions, Embeddings):
    """Embed with Qwen3-Embedding on this machine.

    All instances of a model share one engine, also with LlamaIndex, whatever their instructions and dimensions. Batch size
    and cache size are settings of that engine: call ``get_engine("small", cache_bytes=...)`` before the first use, or set
    ``MLX_QWEN_CACHE_BYTES`` and similar variables. Texts are never edited.

    Example:
        ```python
        embeddings = MLXQwenEmbeddings(model="small", query_instruction="Given a question, find the answer")
        store = InMemoryVectorStore(embeddings)
        ```

    For ``CacheBackedEmbeddings`` pass ``namespace=embeddings.fingerprint``. Its keys are only namespace and text, so to
    cache queries, too, pass a separate store as ``query_embedding_cache``. With ``query_embedding_cache=True`` a query
    would get the vector of a document with the same words.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        model_name: str | PathLike[str] | None = None,
        **fields: Unpack[AdapterFields],
    ) -> None:
        """Check all fields; ``AdapterOptions`` documents the arguments and errors. The first call loads the model."""
        given: dict[str, Any] = {"model": model, "model_name": model_name, **fields}
        super().__init__(**given)

    @property
    def model_name(self) -> str:
        """Another name for ``model``."""
        return self.model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents, in their order. Errors are those of ``EmbeddingEngine``."""
        return to_floats(self.engine.embed_documents(texts, **self.call_options("document")))

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query, embedded with the query instruction."""
        return to_floats(self.engine.embed_query(text, **self.call_options("query")))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return what ``embed_documents`` does, without blocking the event loop."""
        return await to_floats_in_turns(await self.engine.aembed_documents(texts, **self.call_options("document")))

    async def aembed_query(self, text: str) -> list[float]:
        """Return what ``embed_query`` does, without blocking the event loop."""
        return to_floats(await self.engine.aembed_query(text, **self.call_options("query")))
