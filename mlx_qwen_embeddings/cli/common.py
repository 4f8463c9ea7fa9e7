"""Options that several commands have, and the ends of those that can be resumed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Lay out rows in columns, of which the first ``left`` hold words and the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


# Written out, since the modules that define them import numpy and pydantic, which --help need not pay for.
Role = Literal["document", "query"]
Pooling = Literal["native", "last", "mean", "first", "max"]
Truncate = Literal["end", "error"]
Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
Metric = Literal["cosine", "dot", "euclidean", "manhattan"]

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Alias, Hub name or local folder; else MLX_QWEN_MODEL, else small."),
]
IndexedModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Alias, Hub name or folder; else the database's, else MLX_QWEN_MODEL, else small."),
]
ModelDirOption = Annotated[Path | None, typer.Option(help="Folder of downloaded models; else the Hugging Face cache.")]
RoleOption = Annotated[Role, typer.Option(help="What the texts are: a query gets the model's prompt for queries.")]
InstructionOption = Annotated[
    str | None, typer.Option(help="The task in words, written before each text; '' for none; else the model's own.")
]
DimensionsOption = Annotated[int | None, typer.Option(help="Keep so many leading dimensions.", min=1)]
MaxLengthOption = Annotated[int | None, typer.Option(help="Most tokens of a text; else the model's default.", min=1)]


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Tell whoever stops a run with Ctrl-C how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"mlx-qwen: stopped; the same command goes on with {output}", err=True)
        raise typer.Exit(130) from None


def from_earlier(rows: int) -> str:
    """Say how much of the work an earlier run had done."""
    return f", {rows:,} of them from an earlier run" if rows else ""
