"""What several commands share: options, tables, and how a run that can be resumed ends."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from mlx_qwen_embeddings.options import OPTIONS, Option
from mlx_qwen_embeddings.prompts import Role

Metric = Literal["cosine", "dot", "euclidean", "manhattan"]
"""Repeated here because ``similarity`` imports numpy, which would slow ``--help`` down."""

NamedModel = Annotated[str, typer.Argument(help="Alias, Hub name or local folder.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Alias, Hub name or local folder; default: MLX_QWEN_MODEL, then small."),
]
IndexedModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Alias, Hub name or folder; default: the database's, then MLX_QWEN_MODEL, then small."
    ),
]
ModelDirOption = Annotated[Path | None, typer.Option(help="Folder of downloaded models; default: the Hugging Face cache.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
RoleOption = Annotated[Role, typer.Option(help="What the texts are; queries get the model's query prompt.")]
VectorColumnOption = Annotated[str, typer.Option(help="Name of the vector column in the output.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Discard what an earlier run has done.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def with_options(*, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's ``**options`` by a flag for each option that changes vectors or refuses texts.

    The command is called with the options that differ from their defaults.

    Args:
        without: Names of options that get no flag.
    """
    chosen = [option for option in OPTIONS.values() if option.effect != "run" and option.name not in without]
    flags = {option.name: _flag(option) for option in chosen}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command(**{name: value for name, value in given.items() if name not in flags or value != flags[name].default})

        run.__signature__ = signature.replace(parameters=[*own, *flags.values()])  # type: ignore[attr-defined]
        run.__annotations__ = {flag.name: flag.annotation for flag in (*own, *flags.values())}
        return run

    return decorate


def _flag(option: Option) -> inspect.Parameter:
    kind, default, text = option.type, option.default, option.help
    if bool in get_args(kind):  # chat_template: a template's source is too long for a flag
        kind, default, text = bool, False, f"{text.partition('. ')[0]}."
    annotation = Annotated[kind, typer.Option(help=text, min=option.minimum)]  # type: ignore[valid-type] # made here
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return rows as aligned columns.

    Args:
        rows: Cells, as many in each row.
        left: Number of leading columns that hold words; the others hold numbers and are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Exit on Ctrl-C with a message that says how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"mlx-qwen: stopped; run the same command again to continue {output}", err=True)
        raise typer.Exit(130) from None


def from_earlier(rows: int) -> str:
    """Return a clause that says how many rows an earlier run had finished; "" for none."""
    return f", {rows:,} of them from an earlier run" if rows else ""


def shortened(text: str, characters: int) -> str:
    """Return a text in one line, cut to this many characters."""
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"
