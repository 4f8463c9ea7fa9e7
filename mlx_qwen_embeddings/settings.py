"""Settings of an engine: immutable, checked, and readable from the environment."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Device = Literal["auto", "cpu", "gpu"]

PREFIX = "MLX_QWEN_"


def _refuse_float16(value: object) -> object:
    if value in ("float16", "fp16"):
        raise ValueError("dtype 'float16' overflows to NaN on Qwen3-Embedding-8B: use 'bfloat16' or 'float32'")
    return value


DType = Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(_refuse_float16)]


def in_one_line(error: ValidationError) -> str:
    """Return what is wrong, each with the name of its field or variable."""
    wrong = [(".".join(map(str, entry["loc"])), entry["msg"].removeprefix("Value error, ")) for entry in error.errors()]
    return "; ".join(words if name in words else f"{name}: {words}" for name, words in wrong)


def read_environment(fields: Iterable[str], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the values of the variables ``MLX_QWEN_...`` that are set, by field. An empty variable counts as not set.

    Args:
        fields: Names of settings.
        environ: The variables; None reads ``os.environ``.
    """
    source = os.environ if environ is None else environ
    return {field: value for field in fields if (value := source.get(PREFIX + field.upper()))}


def name_variables(error: ValidationError, fields: Collection[str]) -> ValidationError:
    """Return the error with the name of the variable instead of the field, for these fields."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(entry["type"], "{message}", {"message": entry["msg"]}),
            loc=(PREFIX + str(entry["loc"][0]).upper(), *entry["loc"][1:]) if entry["loc"][0] in fields else entry["loc"],
            input=entry["input"],
        )
        for entry in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, details)


class EngineSettings(BaseModel):
    """Settings of one engine. What shapes a single call is an argument of the call.

    ``get_engine`` returns the same engine for the same ``model``, ``revision``, ``dtype`` and ``device``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    model: str = Field(default="small", min_length=1)
    """Alias, Hub name or local folder."""

    revision: str | None = None
    """Branch, tag or commit on the Hub. By default the main branch."""

    device: Device = "auto"
    """Where to compute: auto, cpu or gpu; auto is the GPU when MLX has one."""

    dtype: DType = "auto"
    """Compute type: auto, float32 or bfloat16; auto is float32 on a CPU and bfloat16 on a GPU."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a batch, padding included; a longer text is a batch of its own. By default 2,048, on a GPU 16,384."""

    lanes: int | None = Field(default=None, ge=1)
    """Number of streams that compute a batch in parallel on a CPU. By default one for each core, at most 4."""

    queue_tokens: int = Field(default=1_048_576, ge=1)
    """Most tokens in the queue; beyond that, callers wait. Calls of at most one batch may use an eighth more."""

    cache_bytes: int = Field(default=256 * 2**20, ge=0)
    """Memory for cached vectors, in bytes; 0 turns the cache off."""

    cache_ttl: float | None = Field(default=None, gt=0)
    """Seconds after which a cached vector expires. By default never."""

    cache_path: Path | None = None
    """File that keeps cached vectors for later processes, or a folder for it. By default they stay in memory."""

    cache_path_bytes: int = Field(default=4 * 2**30, ge=2**20)
    """Most bytes of that file; the vectors that were not used for the longest time are removed first."""

    cache_precision: Literal["float32", "float16"] = "float32"
    """Type of the components in that file: float32 or float16, which halves it and changes each by up to 0.05 %."""

    max_loaded_models: int = Field(default=2, ge=1)
    """Most models of `get_engine` in memory at once. The least recently used one is unloaded, once it is idle, and loaded
    again when it is needed."""

    max_model_bytes: int | None = Field(default=None, ge=1)
    """Most bytes of weights of `get_engine` in memory at once. By default there is no bound."""

    offline: bool = False
    """Whether to use only models on disk and never ask the Hub."""

    cache_dir: Path | None = None
    """Folder of downloaded models. By default the Hugging Face cache."""

    @field_validator("cache_path")
    @classmethod
    def _name_file(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        if "\0" in str(value):
            raise ValueError(f"{str(value)!r} holds a zero byte, which no file name can")
        path = Path(os.path.expanduser(value)).absolute()  # noqa: PTH111 - Path's own raises for an unknown user
        return path if path.suffix and not path.is_dir() else path / "vectors.sqlite"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Return settings from the variables ``MLX_QWEN_MODEL``, ``MLX_QWEN_DEVICE`` and so on, one for each field.

        Args:
            environ: The variables; None reads ``os.environ`` at the time of the call.
            **overrides: Fields that win over the environment. None leaves a field to the environment.

        Raises:
            pydantic.ValidationError: When a value is wrong. It names the variable, or the field of an override.
        """
        variables = read_environment(cls.model_fields, environ)
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls.model_validate(variables | given)
        except ValidationError as error:
            raise name_variables(error, variables.keys() - given.keys()) from None

    @classmethod
    def high_throughput(cls, **overrides: Any) -> Self:
        """Return settings for many texts: large batches of similar length and a long queue. A single query waits longer."""
        return cls.from_env(**{"batch_tokens": 16_384, "queue_tokens": 2**22} | overrides)

    @classmethod
    def low_latency(cls, **overrides: Any) -> Self:
        """Return settings for queries that arrive during other work: small batches, so that the next one starts soon."""
        return cls.from_env(**{"batch_tokens": 256} | overrides)

    @classmethod
    def low_memory(cls, **overrides: Any) -> Self:
        """Return settings for little memory: small batches, one at a time, a small cache and queue, and one model."""
        small: dict[str, Any] = {"batch_tokens": 512, "lanes": 1, "queue_tokens": 2**17, "cache_bytes": 2**24}
        return cls.from_env(**small | {"max_loaded_models": 1} | overrides)
