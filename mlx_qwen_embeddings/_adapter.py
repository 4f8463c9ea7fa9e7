"""What all adapters share: the fields that shape vectors, their checks, and the way to the shared engine."""

import asyncio
import hashlib
import json
import os
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from mlx_qwen_embeddings.cache.memory import KEY_VERSION
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.options import (
    CallOptions,
    EmbedOptions,
    SharedArguments,
    SharedOptions,
    key_values,
    pydantic_fields,
)
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.registry import resolve
from mlx_qwen_embeddings.settings import Device, DType, EngineSettings

NUMBERS_AT_ONCE = 50_000
"""How many numbers become Python floats before the event loop gets its turn: a few milliseconds."""


class AdapterFields(SharedArguments, total=False):
    """The fields of ``AdapterOptions`` as keyword arguments."""

    query_instruction: str | None
    document_instruction: str | None
    revision: str | None
    dtype: DType | None
    device: Device | None


if TYPE_CHECKING:

    class _Fields(BaseModel, SharedOptions):
        """What type checkers see of the fields."""
else:
    _Fields = create_model("_Fields", **pydantic_fields(SharedArguments.__annotations__))


def default_model() -> str:
    """Return the model to use when none is named: ``MLX_QWEN_MODEL``, else "small"."""
    return EngineSettings.from_env().model


class AdapterOptions(_Fields):
    """Fields, and calls of the shared engine, which is looked up for each call.

    An adapter holds nothing but its fields, so it can be pickled, copied and used after a fork.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    name_field: ClassVar[str]
    """The field that holds the model's name."""

    query_instruction: str | None = None
    """The task in words, put before each query in the form the model was trained on. None takes the model's own prompt, ""
    no prompt."""

    document_instruction: str | None = None
    """The same for documents. Qwen3-Embedding's own prompt for documents is empty."""

    revision: str | None = None
    """Branch, tag or commit on the Hub; None is the main branch."""

    dtype: DType | None = None
    """Compute type; None takes ``MLX_QWEN_DTYPE``, else "auto": float32 on a CPU and bfloat16 on a GPU."""

    device: Device | None = None
    """Where to compute; None takes ``MLX_QWEN_DEVICE``, else "auto": the GPU when MLX has one."""

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
        given: dict[str, Any] = {**fields}
        for name in (model, model_name):
            if name is not None:
                text = os.fspath(name) if isinstance(name, PathLike) else name
                if given.setdefault(self.name_field, text) != text:
                    raise ValueError(f"model={model!r} and model_name={model_name!r} name two models: give one of them")
        super().__init__(**given)

    @model_validator(mode="after")
    def _check(self) -> Self:
        EngineSettings.from_env(**self._engine_key())
        spec = resolve(getattr(self, self.name_field))
        for name, most in (("dimensions", spec.dimensions), ("max_length", spec.max_length)):
            value = getattr(self, name)
            if value is not None and most is not None and value > most:
                raise ValueError(f"{name}={value} is more than the {most} that {spec.name!r} has")
        if self.precision not in {"float32", "float16", "int8"}:
            raise ValueError(
                f"precision={self.precision!r} is not for a list of floats, which stores compare as it is: choose float32, "
                f"float16 or int8, or call engine.embed_documents(texts, precision={self.precision!r})"
            )
        for role in ("query", "document"):
            EmbedOptions(**self.call_options(role))
        return self

    @property
    def engine(self) -> EmbeddingEngine:
        """The engine that this process shares for this model, revision, dtype and device."""
        return get_engine(**self._engine_key())

    @property
    def fingerprint(self) -> str:
        """Hash of the model's content and of every setting that shapes a vector, 16 hexadecimal digits.

        Opens the model, which may download it. Use it as the name of a cache or a collection, to keep vectors of different
        settings apart.
        """
        engine, length = self.engine, {"max_length": self.engine.max_length}
        shaping = [length | self.vector_options("query"), length | self.vector_options("document")]
        shape = [KEY_VERSION, engine.fingerprint, engine.facts.device, engine.facts.dtype, *shaping]
        return hashlib.blake2b(json.dumps(shape, sort_keys=True).encode(), digest_size=8).hexdigest()

    def _engine_key(self) -> dict[str, Any]:
        model = getattr(self, self.name_field)
        return {"model": model, "revision": self.revision, "dtype": self.dtype, "device": self.device}

    def vector_options(self, role: Role) -> dict[str, Any]:
        """Return the options that shape the vectors of a role and differ from their defaults."""
        return key_values(EmbedOptions(**self.call_options(role)), "computed", "returned")

    def call_options(self, role: Role) -> CallOptions:
        """Return the options of a call of the engine for texts of a role."""
        options: dict[str, Any] = {name: getattr(self, name) for name in SharedArguments.__annotations__}
        options["instruction"] = self.query_instruction if role == "query" else self.document_instruction
        options["show_progress"] = self.show_progress and role == "document"  # a query is over before its bar is drawn
        return cast("CallOptions", options)


class ModelOptions(AdapterOptions):
    """``AdapterOptions`` with the model's name in ``model``."""

    name_field: ClassVar[str] = "model"

    model: str = Field(default_factory=default_model, min_length=1)
    """Alias, Hub name or local folder; by default ``MLX_QWEN_MODEL``, else "small"."""


def to_floats(vectors: NDArray[Any]) -> list[Any]:
    """Return Python floats for vectors of any precision: a list for one vector, a list of lists for rows."""
    return cast("list[Any]", vectors.astype(np.float32, copy=False).tolist())


async def to_floats_in_turns(vectors: NDArray[Any]) -> list[list[float]]:
    """Return what ``to_floats`` does for rows of vectors, but let the event loop run in between."""
    rows = max(1, NUMBERS_AT_ONCE // vectors.shape[1])
    floats: list[list[float]] = []
    for start in range(0, len(vectors), rows):
        if start:
            await asyncio.sleep(0)
        floats += to_floats(vectors[start : start + rows])
    return floats
