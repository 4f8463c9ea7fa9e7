"""``mlx-qwen embed``."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

import typer

from mlx_qwen_embeddings.cli.common import (
    ModelDirOption,
    ModelOption,
    RestartOption,
    RoleOption,
    VectorColumnOption,
    from_earlier,
    resumable,
    shortened,
    with_options,
)
from mlx_qwen_embeddings.options import CallOptions

if TYPE_CHECKING:
    from mlx_qwen_embeddings.bulk.sources import Source
    from mlx_qwen_embeddings.engine import EmbeddingEngine

InputFormat = Literal["lines", "jsonl", "csv", "tsv", "parquet"]
STDIN = Path("-")

BAR_FROM = 100
"""Number of texts from which a progress bar is shown."""

SHOWN_VALUES, SHOWN_CHARACTERS = 10, 70


@with_options()
def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to embed, one per argument.")] = None,
    *,
    rows: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="File of rows: JSON Lines, CSV, Parquet, or one text per line; - for stdin."),
    ] = None,
    input_format: Annotated[
        InputFormat | None, typer.Option(help="Format of the rows; default: by the file's suffix.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column that holds the texts.")] = "text",
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="File that is embedded as one text; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .jsonl, .json, .npy or .parquet file; default: print.")
    ] = None,
    form: Annotated[
        Literal["short", "json", "jsonl"], typer.Option("--format", help="How to print: a short view, or all values.")
    ] = "short",
    vector_column: VectorColumnOption = "embedding",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    restart: RestartOption = False,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    role: RoleOption = "document",
    **options: Unpack[CallOptions],
) -> None:
    """Embed texts, files, or a column of a table. To continue a stopped run into a file, repeat the command."""
    from mlx_qwen_embeddings.engine import EmbeddingEngine
    from mlx_qwen_embeddings.options import EmbedOptions

    opened = _open_texts(texts or (), files or (), rows, column, input_format)
    with opened as source, EmbeddingEngine(model, cache_dir=model_dir) as engine:
        if output is None:
            blocks = _blocks(source, engine, role, EmbedOptions(**options))
            for line in _printed(source, blocks, form, vector_column):
                sys.stdout.write(line)
            return
        keep: Any = {"vector_column": vector_column, "overwrite": overwrite, "restart": restart}
        _write(source, output, engine, {"role": role, **keep, **options})


@contextmanager
def _open_texts(
    texts: Sequence[str], files: Sequence[Path], rows: Path | None, column: str, form: InputFormat | None
) -> Iterator["Source"]:
    """Open the one place that texts were given in, or standard input where none was."""
    from mlx_qwen_embeddings.bulk.sources import MemorySource

    given = [name for name, value in (("texts", texts), ("--file", files), ("--input", rows)) if value]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} are given: choose one")
    if not given and sys.stdin.isatty():
        raise typer.BadParameter("nothing to embed: give texts, --file, --input, or a pipe")
    if texts:
        yield MemorySource([{column: text} for text in texts], column=column)
    elif files:
        yield MemorySource([{"file": str(path), column: _whole(path)} for path in files], column=column)
    elif rows in {None, STDIN}:
        # Rows are read several times: to count them, to embed them, and to write them beside their vectors.
        with tempfile.TemporaryDirectory(prefix="mlx-qwen-") as folder:
            path = Path(folder, "stdin")
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            source = _open_file(path, column, form)
            source.name = "standard input"
            yield source
    else:
        yield _open_file(rows, column, form)


def _open_file(path: Path, column: str, form: InputFormat | None) -> "Source":
    from mlx_qwen_embeddings.bulk.sources import open_source

    return open_source(path, column, None if form is None else f".{form}")


def _whole(path: Path) -> str:
    try:
        return (sys.stdin.buffer.read() if path == STDIN else path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it") from error


def _write(source: "Source", output: Path, engine: "EmbeddingEngine", options: dict[str, Any]) -> None:
    from mlx_qwen_embeddings.bulk import embed_file

    with resumable(output):
        report = embed_file(source, output, model=engine, show_progress=sys.stderr.isatty(), **options)
    earlier = from_earlier(report.resumed)
    typer.echo(f"{output}: {report.rows:,} vectors of {report.dimensions:,} dimensions{earlier}")


def _blocks(source: "Source", engine: "EmbeddingEngine", role: Any, options: Any) -> Iterator[Any]:
    from mlx_qwen_embeddings.bulk.file import PART_ROWS
    from mlx_qwen_embeddings.bulk.job import embed_blocks, progress_bar

    count = sum(1 for _ in source.texts())
    with progress_bar(count, 0, show=sys.stderr.isatty() and count >= BAR_FROM) as shown:
        for block in embed_blocks(engine, source.texts(), PART_ROWS, role, options):
            yield block
            shown.update(len(block))


def _printed(source: "Source", blocks: Iterator[Any], form: str, column: str) -> Iterator[str]:
    from mlx_qwen_embeddings.bulk.targets import columns_of, joined, records_with

    vectors = (vector for block in blocks for vector in block)
    if form == "short":
        for text, vector in zip(source.texts(), vectors, strict=True):
            yield f"{shortened(text, SHOWN_CHARACTERS)}\n  {_short(vector)}\n"
    else:
        columns_of(source, form, column)  # type: ignore[arg-type]
        yield from joined(records_with(source.records(), vectors, column), form)  # type: ignore[arg-type]


def _short(vector: Any) -> str:
    import numpy as np

    if vector.dtype.kind == "f":
        size = f"{len(vector)} dimensions, norm {np.linalg.norm(vector.astype(np.float64)):.4f}"
        values = [f"{value:.4f}" for value in vector[:SHOWN_VALUES].tolist()]
    else:
        size, values = f"{len(vector)} bytes, {vector.dtype}", [str(value) for value in vector[:SHOWN_VALUES].tolist()]
    more = ["…"] if len(vector) > SHOWN_VALUES else []
    return f"{size}\n  {'  '.join([*values, *more])}"
