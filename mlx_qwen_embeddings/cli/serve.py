"""``mlx-qwen serve``, with a flag for each setting of the server and of its engines."""

import inspect
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from mlx_qwen_embeddings._extras import require

RENAMED = {"cache_dir": "model_dir"}
"""Setting to the name of its flag, where that differs: all commands have --model-dir."""


def serve() -> None:
    """Serve embeddings over HTTP, as OpenAI's API does."""
    # What the list of commands shows. `command` makes the one that runs.


def _serve(config: Path | None = None, **flags: Any) -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package, "server", "The server")
    from mlx_qwen_embeddings.server.run import serve as run
    from mlx_qwen_embeddings.server.settings import ServerSettings

    run(*ServerSettings.load(config, **{name: flags[RENAMED.get(name, name)] for name in settings()}))


def settings() -> dict[str, Any]:
    """Return the settings that are flags. API keys are not: everybody on the machine can read a command line."""
    from mlx_qwen_embeddings.server.settings import ServerSettings
    from mlx_qwen_embeddings.settings import EngineSettings

    fields = EngineSettings.model_fields | ServerSettings.model_fields
    return {name: field for name, field in fields.items() if name != "api_keys"}


def signature() -> inspect.Signature:
    """Return the parameters from which typer makes the flags."""
    config = Annotated[Path | None, typer.Option(help="TOML file with any of these settings.")]
    kinds: dict[str, Any] = {"config": config}
    for name, field in settings().items():
        text = " ".join(field.description.split()).replace("`", "")
        default = "" if field.default in (None, (), False) else f" Default: {field.default}."
        kinds[RENAMED.get(name, name)] = Annotated[_kind(field.annotation) | None, typer.Option(help=text + default)]
    named = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([inspect.Parameter(name, named, default=None, annotation=kinds[name]) for name in kinds])


def _kind(annotation: Any) -> Any:
    """Return the type of a flag; the settings check what typer does not know."""
    return next((kind for kind in (bool, int, float, Path) if kind in (annotation, *get_args(annotation))), str)


def command() -> Any:
    """Return the command with its flags. Making them imports pydantic, which the help of other commands does without."""
    _serve.__signature__ = signature()  # type: ignore[attr-defined] # typer reads it
    group = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    group.command("serve", help=serve.__doc__)(_serve)
    return typer.main.get_command(group)
