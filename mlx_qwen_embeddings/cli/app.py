"""All commands in one application, and what their errors look like."""

import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mlx_qwen_embeddings.cli.bench import bench
from mlx_qwen_embeddings.cli.bulk import bulk
from mlx_qwen_embeddings.cli.cache import cache
from mlx_qwen_embeddings.cli.compare import compare
from mlx_qwen_embeddings.cli.convert import convert
from mlx_qwen_embeddings.cli.doctor import doctor
from mlx_qwen_embeddings.cli.embed import embed
from mlx_qwen_embeddings.cli.evaluate import evaluate
from mlx_qwen_embeddings.cli.index import index
from mlx_qwen_embeddings.cli.models import models
from mlx_qwen_embeddings.cli.search import search
from mlx_qwen_embeddings.cli.serve import serve
from mlx_qwen_embeddings.cli.verify import verify
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError

CLICKS_OWN: tuple[type[BaseException], ...] = (
    BrokenPipeError,  # who reads has had enough, which is no error; click ends quietly
    typer.Exit,
    typer.Abort,
    typer.BadParameter.__mro__[2],  # ClickException: of click, or of the copy that newer versions of typer carry
)
"""What click turns into words and an exit status by itself."""

EXPECTED = (MLXQwenEmbeddingsError, OSError, ValueError)
"""Errors whose message says it all."""


class Commands(TyperGroup):
    """Commands whose errors are one line, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except CLICKS_OWN:
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"mlx-qwen: {_one_line(error)}", err=True)
            raise typer.Exit(1) from error


def _one_line(error: Exception) -> str:
    if "pydantic" in sys.modules:  # --help does without it
        from pydantic import ValidationError  # noqa: PLC0415 - as said above

        from mlx_qwen_embeddings.settings import in_one_line  # noqa: PLC0415 - as said above

        if isinstance(error, ValidationError):  # its text spreads over many lines
            return in_one_line(error)
    words, kind = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, EXPECTED):
        return words or kind
    return f"{kind}: {words} (mlx-qwen --debug ... shows where)" if words else f"{kind} (mlx-qwen --debug ... shows where)"


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


app.command()(embed)
app.command()(bulk)
app.command()(compare)
app.command()(index)
app.command()(search)
app.command()(verify)
app.command()(evaluate)
app.command()(convert)
app.command()(doctor)
app.command()(bench)
app.command()(serve)
app.add_typer(models, name="models")
app.add_typer(cache, name="cache")
