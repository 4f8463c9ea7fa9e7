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
        """Check all fields. The first call loads the model.

        Args:
            model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
            model_name: Another name for ``model``.
            **fields: See the fields of this class.

        Raises:
            UnknownModelError: When no model has this name; the message suggests similar names.
            ValueError: When a field is wrong (``pydantic.ValidationError``), or the two names differ.
        """
        super().__init__(model=model, model_name=model_name, **fields)

    @property
    def model_name(self) -> str:
        """Another name for ``model``."""
        return self.model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents, in their order. Errors are those of ``EmbeddingEngine``."""
        vectors: list[list[float]] = to_floats(self.engine.embed_documents(texts, **self.call_options("document")))
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query, embedded with the query instruction."""
        vector: list[float] = to_floats(self.engine.embed_query(text, **self.call_options("query")))
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return what ``embed_documents`` does, without blocking the event loop."""
        vectors = await self.engine.aembed_documents(texts, **self.call_options("document"))
        return await to_floats_in_turns(vectors)

    async def aembed_query(self, text: str) -> list[float]:
        """Return what ``embed_query`` does, without blocking the event loop."""
        vector = await self.engine.aembed_query(text, **self.call_options("query"))
        result: list[float] = to_floats(vector)
        return result
