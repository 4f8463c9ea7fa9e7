"""LangChain: ``MLXQwenEmbeddings``, an ``Embeddings`` on the shared engine."""

from os import PathLike
from typing import ClassVar, Unpack

from pydantic import ConfigDict, Field

from mlx_qwen_embeddings._adapter import AdapterFields, AdapterOptions, default_model, to_floats, to_floats_in_turns
from mlx_qwen_embeddings._extras import require

require("langchain_core.embeddings", "langchain", "mlx_qwen_embeddings.langchain")

from langchain_core.embeddings import Embeddings  # noqa: E402 - the line above says what to install when this is missing


class MLXQwenEmbeddings(AdapterOptions, Embeddings):
    """Embed with Qwen3-Embedding on this machine.

    All instances of a model share one engine, whatever their instructions and dimensions; LlamaIndex's too. Size of the
    batches and of the cache are settings of that engine: ``get_engine("small", cache_bytes=...)`` before the first use, or
    ``MLX_QWEN_CACHE_BYTES`` and its like. Texts are never edited.

    Example:
        ```python
        embeddings = MLXQwenEmbeddings(model="small", query_instruction="Given a question, find the answer")
        store = InMemoryVectorStore(embeddings)
        ```

    For ``CacheBackedEmbeddings`` pass ``namespace=embeddings.fingerprint``. It keys by namespace and text alone: to keep
    queries too, give it a store of their own as ``query_embedding_cache``. With ``query_embedding_cache=True`` a query
    would get the vector of a document with the same words.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    name_field: ClassVar[str] = "model"

    model: str = Field(default_factory=default_model, min_length=1)
    """Alias, Hub name or local folder; by default ``MLX_QWEN_MODEL``, else "small"."""

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        model_name: str | PathLike[str] | None = None,
        **fields: Unpack[AdapterFields],
    ) -> None:
        """Check all fields; the model is loaded by the first call.

        Args:
            model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
            model_name: Another name for ``model``.
            **fields: See the fields of this class.

        Raises:
            UnknownModelError: When the name means nothing; the message gives close matches.
            ValueError: When a field does not fit (``pydantic.ValidationError``), or the two names differ.
        """
        super().__init__(model=model, model_name=model_name, **fields)

    @property
    def model_name(self) -> str:
        """Another name for ``model``."""
        return self.model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, in the order given; errors are those of ``EmbeddingEngine``."""
        vectors: list[list[float]] = to_floats(self.engine.embed_documents(texts, **self.call_options("document")))
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with the query's instruction."""
        vector: list[float] = to_floats(self.engine.embed_query(text, **self.call_options("query")))
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Do as ``embed_documents`` without holding up the event loop."""
        vectors = await self.engine.aembed_documents(texts, **self.call_options("document"))
        return await to_floats_in_turns(vectors)

    async def aembed_query(self, text: str) -> list[float]:
        """Do as ``embed_query`` without holding up the event loop."""
        vector = await self.engine.aembed_query(text, **self.call_options("query"))
        result: list[float] = to_floats(vector)
        return result
