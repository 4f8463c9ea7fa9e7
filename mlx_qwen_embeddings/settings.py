"""What an engine is opened with: frozen, checked, readable from the environment."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Device = Literal["auto", "cpu", "gpu"]
DType = Literal["auto", "float32", "bfloat16"]

PREFIX = "MLX_QWEN_"
DEFAULT_MODEL = "small"

CACHE_FILE = "vectors.sqlite"
"""Name of the persistent cache in a folder."""


def refuse_float16(value: object) -> object:
    """Refuse the compute type that overflows, with the reason; anything else is handed on."""
    if value in ("float16", "fp16"):
        message = "dtype 'float16' overflows to NaN on Qwen3-Embedding-8B: use 'bfloat16' or 'float32'"
        raise ValueError(message)
    return value


def in_one_line(error: ValidationError) -> str:
    """Say what does not fit, each with the name of its field or variable."""
    said = [(".".join(map(str, entry["loc"])), entry["msg"].removeprefix("Value error, ")) for entry in error.errors()]
    return "; ".join(words if name in words else f"{name}: {words}" for name, words in said)


def name_variables(error: ValidationError, fields: Collection[str]) -> ValidationError:
    """Give the error with the variable in place of each field that came from one."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(entry["type"], "{said}", {"said": entry["msg"]}),
            loc=(PREFIX + str(entry["loc"][0]).upper(), *entry["loc"][1:]) if entry["loc"][0] in fields else entry["loc"],
            input=entry["input"],
        )
        for entry in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, details)


class EngineSettings(BaseModel):
    """Settings of one engine; all that shapes a single call is an argument of the call.

    ``model``, ``revision``, ``dtype`` and ``device`` say which engine it is: ``get_engine`` gives the same engine for
    the same four.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    """Alias, Hub name or local folder."""

    revision: str | None = None
    """Branch, tag or commit on the Hub; None is the main branch."""

    device: Device = "auto"
    """Where to compute; "auto" takes the GPU when MLX has one."""

    dtype: DType = "auto"
    """Compute type; "auto" is float32 on CPU and bfloat16 on a GPU. Never float16, which overflows on the 8B."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens, padding counted, that one batch holds; a longer text is a batch of its own. None is 2,048 on a CPU and
    16,384 on a GPU."""

    lanes: int | None = Field(default=None, ge=1)
    """Streams that compute a batch side by side on a CPU; None is one a core, at most 4."""

    queue_tokens: int = Field(default=1_048_576, ge=1)
    """Tokens that may wait in the queue before callers have to wait. Calls of at most one batch have an eighth more."""

    cache_bytes: int = Field(default=256 * 2**20, ge=0)
    """Memory for cached vectors, in bytes; 0 switches the cache off."""

    cache_ttl: float | None = Field(default=None, gt=0)
    """Seconds after which a cached vector is computed anew; None means never."""

    cache_path: Path | None = None
    """File that keeps cached vectors for later processes, or a folder for it; None keeps them in memory only."""

    cache_path_bytes: int = Field(default=4 * 2**30, ge=2**20)
    """Size of that file, in bytes; what was not used for longest goes first."""

    cache_precision: Literal["float32", "float16"] = "float32"
    """Type of the components in that file; "float16" halves it, and changes each by at most 0.05 %."""

    max_loaded_models: int = Field(default=2, ge=1)
    """Most models of `get_engine` in memory at once. The least recently used makes room, and is loaded again when it is
    needed; one in use is waited for."""

    max_model_bytes: int | None = Field(default=None, ge=1)
    """Most bytes of weights of `get_engine` in memory at once; None sets no bound."""

    offline: bool = False
    """Never ask the Hub; only what is on disk is used."""

    cache_dir: Path | None = None
    """Folder of downloaded models; None is the Hugging Face cache."""

    @field_validator("dtype", mode="before")
    @classmethod
    def _refuse_float16(cls, value: object) -> object:
        return refuse_float16(value)

    @field_validator("cache_path")
    @classmethod
    def _name_file(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        if "\0" in str(value):
            message = f"{str(value)!r} holds a zero byte, which no file's name can"
            raise ValueError(message)
        path = Path(os.path.expanduser(value)).absolute()  # noqa: PTH111 - Path's own raises for an unknown user
        return path if path.suffix and not path.is_dir() else path / CACHE_FILE

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read ``MLX_QWEN_MODEL``, ``MLX_QWEN_DEVICE`` and so on, one variable a field, at the time of the call.

        Args:
            environ: The variables; None reads ``os.environ``.
            **overrides: Fields that win over the environment; one that is None leaves it to the environment.

        Raises:
            pydantic.ValidationError: When a value does not fit; it names the variable, or the field of an override.
        """
        source = os.environ if environ is None else environ
        found = {name: source[PREFIX + name.upper()] for name in cls.model_fields if source.get(PREFIX + name.upper())}
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls.model_validate(found | given)
        except ValidationError as error:
            raise name_variables(error, found.keys() - given.keys()) from None

    @classmethod
    def high_throughput(cls, **overrides: Any) -> Self:
        """Give settings for much text: large batches of like length, a long queue. A query waits longer for its turn."""
        return cls.from_env(**{"batch_tokens": 16_384, "queue_tokens": 2**22} | overrides)

    @classmethod
    def low_latency(cls, **overrides: Any) -> Self:
        """Give settings for queries beside other work: small batches, so that the next one begins soon."""
        return cls.from_env(**{"batch_tokens": 256} | overrides)

    @classmethod
    def low_memory(cls, **overrides: Any) -> Self:
        """Give settings for little memory: small batches, one at a time, small cache and queue, one model."""
        small: dict[str, Any] = {"batch_tokens": 512, "lanes": 1, "queue_tokens": 2**17, "cache_bytes": 2**24}
        return cls.from_env(**small | {"max_loaded_models": 1} | overrides)
