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


class Commands(TyperGroup):
    """Commands whose expected errors are one line, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who reads has had enough, which is no error; click ends quietly
        except (MLXQwenEmbeddingsError, OSError, ValueError) as error:
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
    return " ".join(str(error).split()) or type(error).__name__


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
