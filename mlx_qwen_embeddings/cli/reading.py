"""Where ``mlx-qwen embed`` takes its texts from."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from mlx_qwen_embeddings.bulk.sources import Source

InputFormat = Literal["lines", "jsonl", "csv", "tsv", "parquet"]
STDIN = Path("-")


@contextmanager
def open_texts(
    texts: Sequence[str], files: Sequence[Path], rows: Path | None, column: str, form: InputFormat | None
) -> Iterator["Source"]:
    """Give the texts of the one place that was named; standard input where none was.

    Args:
        texts: Arguments.
        files: A text each.
        rows: A file of rows; "-" is standard input.
        column: Which column of the rows holds the texts.
        form: What the rows are; None goes by the file's name, and takes standard input for lines.
    """
    from mlx_qwen_embeddings.bulk.sources import MemorySource  # noqa: PLC0415 - as in the commands

    given = [name for name, there in (("texts", texts), ("--file", files), ("--input", rows)) if there]
    if len(given) > 1:
        message = f"{' and '.join(given)} are given: choose one"
        raise typer.BadParameter(message)
    if not given and sys.stdin.isatty():
        message = "nothing to embed: give texts, --file, --input, or a pipe"
        raise typer.BadParameter(message)
    if texts:
        yield MemorySource([{column: text} for text in texts], column=column)
    elif files:
        yield MemorySource([{"file": str(path), column: _whole(path)} for path in files], column=column)
    else:
        with _file(rows or STDIN, form) as (path, suffix):
            source = _open(path, suffix, column)
            source.name = "standard input" if rows in {None, STDIN} else str(rows)
            yield source


def _open(path: Path, suffix: str | None, column: str) -> "Source":
    from mlx_qwen_embeddings.bulk.opening import KINDS, open_source  # noqa: PLC0415 - as in the commands
    from mlx_qwen_embeddings.bulk.sources import LineSource  # noqa: PLC0415 - as above

    if suffix is None:
        return open_source(path, column)
    return KINDS.get(suffix, LineSource)(path, column)


@contextmanager
def _file(rows: Path, form: InputFormat | None) -> Iterator[tuple[Path, str | None]]:
    suffix = None if form is None else f".{form}"
    if rows != STDIN:
        yield rows, suffix
        return
    # Rows are read several times: to check and count them, to embed them, and to write them beside their vectors.
    with tempfile.TemporaryDirectory(prefix="mlx-qwen-") as folder:
        path = Path(folder, "stdin")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path, suffix


def _whole(path: Path) -> str:
    try:
        return (sys.stdin.buffer.read() if path == STDIN else path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it"
        raise ValueError(message) from error
