"""Chroma: ``MLXQwenEmbeddingFunction``, for those who use it without a framework."""

import json
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from mlx_qwen_embeddings._adapter import AdapterFields, ModelOptions
from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.engine import Vectors
from mlx_qwen_embeddings.options import OF_THE_RUN
from mlx_qwen_embeddings.stores import KEY, check, stamp

require("chromadb", "chroma", "mlx_qwen_embeddings.chroma")

from chromadb import Collection  # noqa: E402 - the line above says what to install when this is missing
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space  # noqa: E402 - as above
from chromadb.utils.embedding_functions import register_embedding_function  # noqa: E402 - as above

NAME = "mlx_qwen"

_NOT_KEPT = OF_THE_RUN | {"device"}
"""Fields that a collection does not keep: they say where and how vectors are computed, not which vectors."""


@register_embedding_function
class MLXQwenEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embed with Qwen3-Embedding on this machine.

    Texts that are added are embedded as documents, and query texts as queries. A collection stores the fields and a record
    of the model's content. Opened later without an embedding function, it finds this one by name (import this module first)
    and refuses a model that has changed since. When you pass an embedding function again, Chroma compares its name only, so
    call ``check(collection)``.

    Example:
        ```python
        client = chromadb.PersistentClient("vectors")
        notes = client.create_collection("notes", embedding_function=MLXQwenEmbeddingFunction("small"))
        ```
    """

    def __init__(self, model: str | None = None, **fields: Unpack[AdapterFields]) -> None:
        """Check all fields. The first call loads the model.

        Args:
            model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
            **fields: See ``AdapterOptions``.

        Raises:
            UnknownModelError: When no model has this name; the message suggests similar names.
            ValueError: When a field is wrong (``pydantic.ValidationError``).
        """
        given: dict[str, Any] = {"model": model, **fields}
        self.options = ModelOptions(**given)

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma looks at the name
        """Return the vectors of documents."""
        options = self.options
        return _rows(options.engine.embed_documents(input, **options.call_options("document")))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002 - as above
        """Return the vectors of queries, embedded with the query instruction."""
        options = self.options
        return _rows(options.engine.embed_queries(input, **options.call_options("query")))

    def check(self, collection: Collection) -> None:
        """Check that a collection's vectors were made like those of this function.

        Raises:
            IndexMismatchError: When they were not; the message says what differs and what to do.
        """
        kept = collection.configuration_json.get("embedding_function") or {}
        check(self.options, kept.get("config"), name=f"the collection {collection.name!r}")

    @staticmethod
    def name() -> str:
        """Return the name that collections store."""
        return NAME

    def default_space(self) -> Space:
        """Return the metric of collections that name none."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """Return the metrics that suit these vectors."""
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """Return what a collection stores: the fields and the record of ``stamp``. Opens the model."""
        fields = self.options.model_dump(exclude_defaults=True, exclude=_NOT_KEPT)
        return {**fields, "model": self.options.model, **stamp(self.options)}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "MLXQwenEmbeddingFunction":
        """Return the function that a collection stores.

        Raises:
            IndexMismatchError: When the model has changed since.
        """
        function = MLXQwenEmbeddingFunction(**_fields(config))
        check(function.options, config, name="the collection")
        return function

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Raise a ``ValueError`` for unknown fields and wrong values."""
        ModelOptions(**_fields(config))

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raise an ``IndexMismatchError`` for a change that would not fit the vectors in the collection.

        The query instruction and the length at which texts are cut may change.
        """
        if json.loads(old_config[KEY]) != json.loads(new_config[KEY]):
            check(MLXQwenEmbeddingFunction(**_fields(new_config)).options, old_config, name="the collection")


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != KEY}


def _rows(vectors: Vectors) -> Embeddings:
    return list(vectors.astype(np.float32, copy=False))
