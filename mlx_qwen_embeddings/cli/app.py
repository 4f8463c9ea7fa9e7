"""The application that holds all commands, and how their errors are shown."""

import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mlx_qwen_embeddings.cli.cache import cache
from mlx_qwen_embeddings.cli.embed import bulk, compare, embed
from mlx_qwen_embeddings.cli.models import models
from mlx_qwen_embeddings.cli.search import index, search
from mlx_qwen_embeddings.cli.serve import command as serve_command
from mlx_qwen_embeddings.cli.serve import serve
from mlx_qwen_embeddings.cli.tools import bench, convert, doctor, evaluate, verify
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError

HANDLED_BY_CLICK: tuple[type[BaseException], ...] = (
    BrokenPipeError,  # the reader of a pipe has read enough, which is not an error
    typer.Exit,
    typer.Abort,
    typer.BadParameter.__mro__[2],  # ClickException: click's own, or the copy that newer versions of typer carry
)
"""Exceptions that click itself turns into a message and an exit status."""

EXPECTED = (MLXQwenEmbeddingsError, OSError, ValueError)
"""Errors whose message is enough without the name of their type."""


class Commands(TyperGroup):
    """Commands whose errors are one line instead of a traceback."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is meant; ``serve`` gets its flags only here."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, serve_command() if name == "serve" else found, rest

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except HANDLED_BY_CLICK:
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"mlx-qwen: {_one_line(error)}", err=True)
            raise typer.Exit(1) from error


def _one_line(error: Exception) -> str:
    if "pydantic" in sys.modules:
        from pydantic import ValidationError

        from mlx_qwen_embeddings.settings import in_one_line

        if isinstance(error, ValidationError):
            return in_one_line(error)
    message, kind = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, EXPECTED):
        return message or kind
    return f"{f'{kind}: {message}' if message else kind} (mlx-qwen --debug ... shows where)"


def _version(value: bool) -> None:  # noqa: FBT001 - typer calls it so
    if value:
        typer.echo(f"mlx-qwen-embeddings {metadata.version('mlx-qwen-embeddings')} on Python {sys.version.split()[0]}")
        raise typer.Exit


app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Local text embeddings with Qwen3-Embedding on MLX."""


for command in (embed, bulk, compare, index, search, verify, evaluate, convert, doctor, bench, serve):
    app.command()(command)
app.add_typer(models, name="models")
app.add_typer(cache, name="cache")
