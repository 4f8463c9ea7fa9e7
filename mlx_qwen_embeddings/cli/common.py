"""What several commands share: options, tables, and how a run that can be resumed ends."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

# Repeated here because the modules that define them import numpy and pydantic, which would slow --help down.
Role = Literal["document", "query"]
Pooling = Literal["native", "last", "mean", "first", "max"]
Truncate = Literal["end", "error"]
Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
Metric = Literal["cosine", "dot", "euclidean", "manhattan"]

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
InstructionOption = Annotated[
    str | None, typer.Option(help="Task description put before each text; '' for none; default: the model's own.")
]
DimensionsOption = Annotated[int | None, typer.Option(help="Keep only this many leading dimensions.", min=1)]
NormalizeOption = Annotated[bool, typer.Option(help="Scale vectors to unit length.")]
PoolingOption = Annotated[Pooling, typer.Option(help="How token states become a vector.")]
MaxLengthOption = Annotated[
    int | None, typer.Option(help="Maximum number of tokens in a text; default: the model's own.", min=1)
]
TruncateOption = Annotated[Truncate, typer.Option(help="Cut longer texts at the end, or refuse them.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Type of the vectors' components.")]
VectorColumnOption = Annotated[str, typer.Option(help="Name of the vector column in the output.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Discard what an earlier run has done.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


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
