"""What the server is started with: flags, then ``MLX_QWEN_*`` variables, then a TOML file, then defaults."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from mlx_qwen_embeddings.settings import PREFIX, EngineSettings, in_one_line, name_variables


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_some(value: object) -> object:
    """Take names apart at commas.

    Raises:
        ValueError: For an empty one, or none where there is something: a server that was meant to be closed would be open.
    """
    parts = _split(value)
    if not isinstance(parts, list | tuple):
        return parts
    names = [part.strip() if isinstance(part, str) else part for part in parts]
    if "" in names or (isinstance(value, str) and not names):
        message = "it names nothing: fill it in, or leave the setting out"
        raise ValueError(message)
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
SomeNames = Annotated[tuple[str, ...], BeforeValidator(_split_some)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_split_some)]


class ServerSettings(BaseModel):
    """Settings of the server; those of ``EngineSettings`` hold for the engines behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    host: str = "127.0.0.1"
    """Address to listen on; "0.0.0.0" is every network, which wants API keys."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    models: Annotated[SomeNames | None, Field(min_length=1)] = None
    """Models that may be asked for, comma-separated; None is every name in the table of models."""

    warm: Names | None = None
    """Models that are loaded at the start, comma-separated; None is `model`."""

    api_keys: Secrets = ()
    """Keys of which each request needs one, comma-separated, as a variable or in the file; none lets everybody in."""

    api_keys_file: Path | None = None
    """File with more of them, one a line."""

    cors_origins: Names = ()
    """Web origins whose pages may ask, comma-separated; none by default."""

    allow_token_ids: bool = False
    """Whether token ids are taken as input; they have to be of the model's own tokenizer."""

    max_texts: int = Field(default=2048, ge=1)
    """Most texts of a request."""

    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Most bytes of a request's body."""

    max_total_bytes: int = Field(default=256 * 2**20, ge=1024)
    """Most bytes of all bodies in hand together; further requests get status 429."""

    max_requests: int = Field(default=512, ge=1)
    """Most requests in hand; further ones get status 429."""

    load_wait: float = Field(default=30.0, ge=0)
    """Seconds that a request waits for a model that is being loaded, or downloaded, before it gets status 503."""

    request_timeout: float = Field(default=300.0, gt=0)
    """Seconds after which a request that was not served gets status 503."""

    drain_seconds: float = Field(default=30.0, ge=0)
    """Seconds that accepted requests have after SIGTERM."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Which lines are logged; a request is "info"."""

    @classmethod
    def load(
        cls, config: Path | None = None, environ: Mapping[str, str] | None = None, **flags: Any
    ) -> tuple[Self, EngineSettings]:
        """Read the settings of the server, and of its engines.

        Args:
            config: TOML file, with settings of both at its top; None takes ``MLX_QWEN_CONFIG``, else reads none.
            environ: The variables; None reads ``os.environ``.
            **flags: Settings of both that win over variables and file; those that are None do not.

        Raises:
            ValueError: When a value does not fit, or the file holds what is no setting; the message names it, by its
                variable where it came from one.
            OSError: When the file cannot be read.
        """
        source = os.environ if environ is None else environ
        path = config or (Path(source[PREFIX + "CONFIG"]) if source.get(PREFIX + "CONFIG") else None)
        found = {} if path is None else _read(path)
        known = [*cls.model_fields, *EngineSettings.model_fields]
        variables = {name: source[PREFIX + name.upper()] for name in known if source.get(PREFIX + name.upper())}
        given = {name: value for name, value in flags.items() if value is not None}
        found |= variables | given
        own = {name: value for name, value in found.items() if name not in EngineSettings.model_fields}
        engines = {name: value for name, value in found.items() if name in EngineSettings.model_fields}
        try:
            return cls.model_validate(own), EngineSettings.model_validate(engines)
        except ValidationError as error:
            raise ValueError(in_one_line(name_variables(error, variables.keys() - given.keys()))) from error

    def keys(self) -> list[str]:
        """Give the API keys of settings and file together.

        Raises:
            ValueError: When the file holds none, so that nobody takes an open server for a closed one.
            OSError: When it cannot be read.
        """
        keys = [key.get_secret_value() for key in self.api_keys]
        if self.api_keys_file is not None:
            lines = [line.strip() for line in self.api_keys_file.expanduser().read_text("utf-8-sig").splitlines()]
            more = [line for line in lines if line and not line.startswith("#")]
            if not more:
                message = f"{self.api_keys_file} holds no API key: write one a line, or leave the setting out"
                raise ValueError(message)
            keys += more
        return keys


def _read(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.expanduser().read_text("utf-8"))
    except ValueError as error:  # its syntax, or bytes that are no UTF-8
        message = f"{path} is no TOML file ({error})"
        raise ValueError(message) from error
    known = {*ServerSettings.model_fields, *EngineSettings.model_fields}
    if unknown := sorted(set(found) - known):
        message = f"{path}: there is no setting {unknown[0]!r}; known are {', '.join(sorted(known))}"
        raise ValueError(message)
    return found
