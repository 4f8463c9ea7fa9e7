"""Settings of the server: flags first, then ``MLX_QWEN_*`` variables, then a TOML file, then defaults."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from mlx_qwen_embeddings.settings import PREFIX, EngineSettings, in_one_line, name_variables, read_environment


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_some(value: object) -> object:
    """Split names at commas.

    Raises:
        ValueError: When a name is empty, or none is given: a server that was meant to be closed would be open.
    """
    parts = _split(value)
    if not isinstance(parts, list | tuple):
        return parts
    names = [part.strip() if isinstance(part, str) else part for part in parts]
    if "" in names or (isinstance(value, str) and not names):
        raise ValueError("it names nothing: fill it in, or leave the setting out")
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
SomeNames = Annotated[tuple[str, ...], BeforeValidator(_split_some)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_split_some)]


class ServerSettings(BaseModel):
    """Settings of the server. ``EngineSettings`` has those of its engines."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 means every network and should have API keys."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    models: Annotated[SomeNames | None, Field(min_length=1)] = None
    """Models that requests may name, comma-separated. By default every name in the table of models."""

    warm: Names | None = None
    """Models that are loaded at the start, comma-separated. By default `model`."""

    api_keys: Secrets = ()
    """Keys, comma-separated, of which each request needs one; a variable or an entry in the file. By default the server is
    open."""

    api_keys_file: Path | None = None
    """File with further keys, one on each line."""

    cors_origins: Names = ()
    """Web origins whose pages may send requests, comma-separated. By default none."""

    allow_token_ids: bool = False
    """Whether to accept token ids as input; they must come from the model's own tokenizer."""

    max_texts: int = Field(default=2048, ge=1)
    """Most texts in a request."""

    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Most bytes in a request's body."""

    max_total_bytes: int = Field(default=256 * 2**20, ge=1024)
    """Most bytes in the bodies of all current requests; further ones get status 429."""

    max_requests: int = Field(default=512, ge=1)
    """Most requests at a time; further ones get status 429."""

    load_wait: float = Field(default=30.0, ge=0)
    """Seconds that a request waits for a model to be downloaded and loaded before it gets status 503."""

    request_timeout: float = Field(default=300.0, gt=0)
    """Seconds after which an unfinished request gets status 503."""

    drain_seconds: float = Field(default=30.0, ge=0)
    """Seconds that accepted requests have to finish after SIGTERM."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of the lines that are logged: debug, info, warning or error; a request is info."""

    @classmethod
    def load(
        cls, config: Path | None = None, environ: Mapping[str, str] | None = None, **flags: Any
    ) -> tuple[Self, EngineSettings]:
        """Return the settings of the server and those of its engines.

        Args:
            config: TOML file with settings of both at its top level; None takes ``MLX_QWEN_CONFIG``, else no file.
            environ: The variables; None reads ``os.environ``.
            **flags: Settings of both, which win over variables and file. None leaves a setting to these.

        Raises:
            ValueError: When a value is wrong, or the file has an unknown setting. The message names it, or the variable
                that it came from.
            OSError: When the file cannot be read.
        """
        path = config or (os.environ if environ is None else environ).get(PREFIX + "CONFIG")
        variables = read_environment([*cls.model_fields, *EngineSettings.model_fields], environ)
        given = {name: value for name, value in flags.items() if value is not None}
        found = (_read_toml(Path(path)) if path else {}) | variables | given
        engines = {name: found.pop(name) for name in EngineSettings.model_fields if name in found}
        try:
            return cls.model_validate(found), EngineSettings.model_validate(engines)
        except ValidationError as error:
            raise ValueError(in_one_line(name_variables(error, variables.keys() - given.keys()))) from error

    def keys(self) -> list[str]:
        """Return the API keys of the settings and of the file.

        Raises:
            ValueError: When the file has no key, since the server would be open although it was meant to be closed.
            OSError: When the file cannot be read.
        """
        keys = [key.get_secret_value() for key in self.api_keys]
        if self.api_keys_file is not None:
            lines = [line.strip() for line in self.api_keys_file.expanduser().read_text("utf-8-sig").splitlines()]
            more = [line for line in lines if line and not line.startswith("#")]
            if not more:
                raise ValueError(f"{self.api_keys_file} holds no API key: write one on each line, or leave the setting out")
            keys += more
        return keys


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.expanduser().read_text("utf-8"))
    except ValueError as error:  # wrong syntax, or not UTF-8
        raise ValueError(f"{path} is not a TOML file ({error})") from error
    known = ServerSettings.model_fields | EngineSettings.model_fields
    if unknown := sorted(found.keys() - known.keys()):
        raise ValueError(f"{path}: there is no setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return found
