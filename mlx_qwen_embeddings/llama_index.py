"""LlamaIndex: ``MLXQwenEmbedding``, a ``BaseEmbedding`` on the shared engine."""

from os import PathLike
from typing import Any, ClassVar, Unpack

from pydantic import ConfigDict, Field, model_validator

from mlx_qwen_embeddings._adapter import AdapterFields, AdapterOptions, default_model, to_floats, to_floats_in_turns
from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.checkpoint.fingerprint import nano_fingerprint
from mlx_qwen_embeddings.options import OF_THE_RUN, CallOptions
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.registry import NANO_FOLDER, resolve

require("llama_index.core.embeddings", "llama-index", "mlx_qwen_embeddings.llama_index")

from llama_index.core.base.embeddings.base import Embedding  # noqa: E402 - require says what to install when it is missing
from llama_index.core.callbacks import CallbackManager  # noqa: E402 - as above
from llama_index.core.embeddings import BaseEmbedding  # noqa: E402 - as above

CONTENT = "model_content"
"""The entry of ``to_dict`` that holds the fingerprint of the package's own model."""

MOST_TEXTS = 2048
"""The highest ``embed_batch_size`` that LlamaIndex allows. The engine makes its own batches, and makes better ones from
more texts."""


class LlamaIndexFields(AdapterFields, total=False):
    """The fields of ``MLXQwenEmbedding`` as keyword arguments, except the model's name."""

    embed_batch_size: int
    callback_manager: CallbackManager
    num_workers: int | None
    embeddings_cache: Any
    rate_limiter: Any


class MLXQwenEmbedding(AdapterOptions, BaseEmbedding):
    """Embed with Qwen3-Embedding on this machine.

    All instances of a model share one engine, also with LangChain, whatever their instructions and dimensions. Batch size
    and cache size are settings of that engine: call ``get_engine("small", cache_bytes=...)`` before the first use, or set
    ``MLX_QWEN_CACHE_BYTES`` and similar variables. Texts are never edited.

    Example:
        ```python
        Settings.embed_model = MLXQwenEmbedding(model_name="small")
        index = VectorStoreIndex.from_documents(documents)
        ```

    An ``IngestionPipeline`` keys its cache by the fields of this class, and by the content of "nano", which may change with
    the next version of this package. Where the content of another model may change (a local folder, a branch on the Hub),
    run the pipeline with ``cache_collection=embed_model.fingerprint``.
    """

    model_config = AdapterOptions.model_config | ConfigDict(arbitrary_types_allowed=True)

    name_field: ClassVar[str] = "model_name"

    model_name: str = Field(default_factory=default_model, min_length=1)
    """Alias, Hub name or local folder; by default ``MLX_QWEN_MODEL``, else "small"."""

    embed_batch_size: int = Field(default=MOST_TEXTS, gt=0, le=MOST_TEXTS)
    """Number of texts that LlamaIndex passes to one call."""

    embeddings_cache: Any = None
    """LlamaIndex's cache of vectors. Its key is the text only: a query and a document with the same words share a vector.
    It is accepted only when ``query_instruction`` and ``document_instruction`` are given and equal. The engine has its own
    cache, whose keys include model and prompt."""

    def __init__(
        self,
        model_name: str | PathLike[str] | None = None,
        *,
        model: str | PathLike[str] | None = None,
        **fields: Unpack[LlamaIndexFields],
    ) -> None:
        """Check all fields; ``AdapterOptions`` documents the arguments and errors. The first call loads the model."""
        given: dict[str, Any] = {"model": model, "model_name": model_name, **fields}
        super().__init__(**given)

    @model_validator(mode="before")
    @classmethod
    def _drop_tags(cls, fields: Any) -> Any:
        # LlamaIndex adds the first to every dump, ``to_dict`` the second. Neither is a field.
        tags = ("class_name", CONTENT)
        return {name: fields[name] for name in fields if name not in tags} if isinstance(fields, dict) else fields

    @property
    def model(self) -> str:
        """Another name for ``model_name``."""
        return self.model_name

    @classmethod
    def class_name(cls) -> str:
        """Return the name of this class in serialised instances."""
        return "MLXQwenEmbedding"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the fields, for ``from_dict`` and for the keys of an ``IngestionPipeline``.

        ``timeout`` and ``show_progress`` are left out: a pipeline would embed everything again when one of them changes.

        Args:
            **kwargs: What pydantic's ``model_dump`` takes.
        """
        fields = {name: value for name, value in super().to_dict(**kwargs).items() if name not in OF_THE_RUN}
        embedded = resolve(self.model_name).source == str(NANO_FOLDER)
        return fields | ({CONTENT: nano_fingerprint()} if embedded else {})

    def call_options(self, role: Role) -> CallOptions:
        """Return the options of a call; raise a ``ValueError`` for an ``embeddings_cache`` that would mix the roles."""
        # Checked on construction and in every call, since the cache can also be set on an instance.
        alike = self.query_instruction is not None and self.query_instruction == self.document_instruction
        if self.embeddings_cache is not None and not alike:
            raise ValueError(
                "embeddings_cache keys vectors by the text alone, so a query would get the vector of a document with the "
                "same words: leave it out (the engine has a cache that knows model, prompt and text), or embed both alike "
                "by giving query_instruction and document_instruction the same value"
            )
        return super().call_options(role)

    def _get_query_embedding(self, query: str) -> Embedding:
        return to_floats(self.engine.embed_query(query, **self.call_options("query")))

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return to_floats(await self.engine.aembed_query(query, **self.call_options("query")))

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return to_floats(self.engine.embed_documents(texts, **self.call_options("document")))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await to_floats_in_turns(await self.engine.aembed_documents(texts, **self.call_options("document")))
