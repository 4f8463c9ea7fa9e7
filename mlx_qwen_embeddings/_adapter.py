"""What the adapters have in common: the fields that shape vectors, their checks, and the way to the shared engine."""

import asyncio
import hashlib
import json
import os
from typing import Any, ClassVar, Self, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mlx_qwen_embeddings.cache.memory import KEY_VERSION
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions, PoolingOption
from mlx_qwen_embeddings.precision import Precision
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.registry import resolve
from mlx_qwen_embeddings.settings import Device, DType, EngineSettings, refuse_float16
from mlx_qwen_embeddings.tokenization import Truncate

_SHAPING = ("dimensions", "query_instruction", "document_instruction", "normalize", "pooling", "chat_template")

NUMBERS_AT_ONCE = 50_000
"""Making Python floats of these takes a few milliseconds, for which an event loop may stand still."""


class AdapterFields(TypedDict, total=False):
    """The fields of ``AdapterOptions`` as keyword arguments."""

    dimensions: int | None
    query_instruction: str | None
    document_instruction: str | None
    normalize: bool
    precision: Precision
    pooling: PoolingOption
    max_length: int | None
    truncate: Truncate
    chat_template: bool | str | None
    timeout: float | None
    show_progress: bool
    revision: str | None
    dtype: DType | None
    device: Device | None


class AdapterOptions(BaseModel):
    """Fields and delegation; everything else belongs to the engine, which is looked up anew for every call.

    So an adapter holds nothing but its fields: it pickles, copies and crosses a fork like any record.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    name_field: ClassVar[str]
    """The field that holds the model's name."""

    dimensions: int | None = Field(default=None, ge=1, strict=True)
    """Keep this many leading dimensions, then normalise again (Matryoshka); None keeps all."""

    query_instruction: str | None = None
    """The task in words, written in front of each query the way the model was trained; None takes the model's own prompt,
    "" none."""

    document_instruction: str | None = None
    """The same for documents. Qwen3-Embedding's own prompt for documents is empty."""

    normalize: bool = True
    """Whether vectors have unit length."""

    precision: Precision = "float32"
    """"float16" rounds, "int8" gives whole numbers from -128 to 127; both as floats, which is what stores take. The others,
    which no cosine compares, are the engine's: ``embeddings.engine.embed_documents(texts, precision="ubinary")``."""

    pooling: PoolingOption = "native"
    """How token states become a vector; "native" is what the model was trained with."""

    max_length: int | None = Field(default=None, ge=1, strict=True)
    """Most tokens of a text, prompt and special tokens included; None is the model's default, see ``engine.max_length``."""

    truncate: Truncate = "end"
    """What happens to longer texts: "end" cuts them, counted and warned of once, "error" refuses them."""

    chat_template: bool | str | None = None
    """True renders each text as a user's turn with the model's own chat template, a string with that Jinja source; None or
    False leaves texts as they are."""

    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which a call gives up; None waits."""

    show_progress: bool = False
    """Whether to draw a progress bar over the documents of a call."""

    revision: str | None = None
    """Branch, tag or commit on the Hub; None is the main branch."""

    dtype: DType | None = None
    """Compute type; None takes ``MLX_QWEN_DTYPE``, else "auto": float32 on CPU and bfloat16 on a GPU."""

    device: Device | None = None
    """Where to compute; None takes ``MLX_QWEN_DEVICE``, else "auto": the GPU when MLX has one."""

    def __init__(self, **fields: Any) -> None:
        """Settle which model is meant, then check all fields. Nothing is loaded.

        Args:
            **fields: The fields; the model's name may come as ``model`` or as ``model_name``, None being the default.

        Raises:
            UnknownModelError: When the name means nothing; the message gives close matches.
            ValueError: When a field does not fit, or two names differ (``pydantic.ValidationError`` is one).
        """
        model, model_name = (_as_text(fields.pop(name, None)) for name in ("model", "model_name"))
        if model is not None and model_name is not None and model != model_name:
            message = f"model={model!r} and model_name={model_name!r} name two models: give one of them"
            raise ValueError(message)
        chosen = model if model is not None else model_name
        super().__init__(**fields if chosen is None else fields | {self.name_field: chosen})

    @field_validator("dtype", mode="before")
    @classmethod
    def _refuse_float16(cls, value: object) -> object:
        return refuse_float16(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        EngineSettings.from_env(**self._identity())
        spec = resolve(self._identity()["model"])
        for name, most in (("dimensions", spec.dimensions), ("max_length", spec.max_length)):
            value = getattr(self, name)
            if value is not None and most is not None and value > most:
                message = f"{name}={value} is more than the {most} that {spec.name!r} has"
                raise ValueError(message)
        if self.precision not in {"float32", "float16", "int8"}:
            message = (
                f"precision={self.precision!r} is not for a list of floats, which stores compare as it is: choose float32, "
                f"float16 or int8, or call engine.embed_documents(texts, precision={self.precision!r})"
            )
            raise ValueError(message)
        for role in ("query", "document"):
            EmbedOptions(**self._call_options(role))
        return self

    @property
    def engine(self) -> EmbeddingEngine:
        """The engine that everything in this process shares for this model, revision, dtype and device."""
        return get_engine(**self._identity())

    @property
    def fingerprint(self) -> str:
        """Hash of the model's content and of every setting that shapes a vector, 16 hexadecimal digits.

        Opens the model, which may download it. Use it to keep stored vectors apart, as the name of a cache or a collection.
        """
        engine = self.engine
        backend = choose_backend(engine.settings.device, engine.settings.dtype)
        shape = [
            KEY_VERSION,
            engine.fingerprint,
            backend.device,
            backend.dtype,
            self.max_length or engine.max_length,
            *(getattr(self, name) for name in _SHAPING),
            *([] if self.precision == "float32" else [self.precision]),
        ]
        return hashlib.blake2b(json.dumps(shape).encode(), digest_size=8).hexdigest()

    def _identity(self) -> dict[str, Any]:
        return {
            "model": getattr(self, self.name_field),
            "revision": self.revision,
            "dtype": self.dtype,
            "device": self.device,
        }

    def _call_options(self, role: Role) -> CallOptions:
        return CallOptions(
            instruction=self.query_instruction if role == "query" else self.document_instruction,
            dimensions=self.dimensions,
            normalize=self.normalize,
            precision=self.precision,
            pooling=self.pooling,
            max_length=self.max_length,
            truncate=self.truncate,
            chat_template=self.chat_template,
            timeout=self.timeout,
            show_progress=self.show_progress and role == "document",
        )


def to_floats(vectors: NDArray[Any]) -> Any:
    """Give nested lists of Python floats, whatever the precision."""
    return vectors.astype(np.float32, copy=False).tolist()


async def to_floats_in_turns(vectors: NDArray[Any]) -> list[list[float]]:
    """Do as ``to_floats`` with rows of vectors, and let the event loop go on between any fifty thousand numbers."""
    rows = max(1, NUMBERS_AT_ONCE // vectors.shape[1])
    found: list[list[float]] = []
    for start in range(0, len(vectors), rows):
        if start:
            await asyncio.sleep(0)
        found += to_floats(vectors[start : start + rows])
    return found


def _as_text(model: object) -> object:
    return os.fspath(model) if isinstance(model, os.PathLike) else model


def default_model() -> str:
    """Give the model that is used when none is named: ``MLX_QWEN_MODEL``, else "small"."""
    return EngineSettings.from_env().model
