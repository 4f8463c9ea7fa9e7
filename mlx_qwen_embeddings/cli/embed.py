"""``mlx-qwen embed``."""

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


from typing import TYPE_CHECKING, Annotated, Any

from mlx_qwen_embeddings.cli.common import (
    DimensionsOption,
    InstructionOption,
    MaxLengthOption,
    ModelDirOption,
    ModelOption,
    Pooling,
    Precision,
    RoleOption,
    Truncate,
    from_earlier,
    resumable,
)

if TYPE_CHECKING:
    from mlx_qwen_embeddings.bulk.sources import Source
    from mlx_qwen_embeddings.engine import EmbeddingEngine


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


BAR_FROM = 100
"""Texts from which a bar is worth its line on the terminal."""

SHOWN_VALUES, SHOWN_CHARACTERS = 10, 70


def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, one an argument.")] = None,
    *,
    rows: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="Rows: JSON Lines, CSV, Parquet, or a text a line; - is standard input."),
    ] = None,
    input_format: Annotated[InputFormat | None, typer.Option(help="What the rows are; else as the name says.")] = None,
    column: Annotated[str, typer.Option(help="Which column holds the texts.")] = "text",
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="A file that is one text; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .jsonl, .json, .npy or .parquet file; else print.")
    ] = None,
    form: Annotated[
        Literal["short", "json", "jsonl"], typer.Option("--format", help="How to print: a short view, or every value.")
    ] = "short",
    vector_column: Annotated[str, typer.Option(help="Name of the vectors in the output.")] = "embedding",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Drop what an earlier run has done.")] = False,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    role: RoleOption = "document",
    instruction: InstructionOption = None,
    dimensions: DimensionsOption = None,
    normalize: Annotated[bool, typer.Option(help="Give vectors of unit length.")] = True,
    pooling: Annotated[Pooling, typer.Option(help="How token states become a vector.")] = "native",
    max_length: MaxLengthOption = None,
    truncate: Annotated[Truncate, typer.Option(help="Cut longer texts at their end, or refuse them.")] = "end",
    precision: Annotated[Precision, typer.Option(help="Type of the vectors' components.")] = "float32",
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Render each text with the model's own chat template.")
    ] = False,
) -> None:
    """Embed texts, files, or a column of a table. A run into a file that was stopped goes on with the same command."""
    from mlx_qwen_embeddings.engine import EmbeddingEngine  # noqa: PLC0415 - numpy and pydantic, which --help need not pay
    from mlx_qwen_embeddings.options import CallOptions, EmbedOptions  # noqa: PLC0415 - as above

    options = CallOptions(
        instruction=instruction,
        dimensions=dimensions,
        normalize=normalize,
        pooling=pooling,
        max_length=max_length,
        truncate=truncate,
        precision=precision,
        chat_template=chat_template or None,
    )
    where = open_texts(texts or (), files or (), rows, column, input_format)
    with where as source, EmbeddingEngine(model, cache_dir=model_dir) as engine:
        if output is None:
            blocks = _blocks(source, engine, role, EmbedOptions(**options))
            for line in _printed(source, blocks, form, vector_column):
                sys.stdout.write(line)
            return
        keep: Any = {"vector_column": vector_column, "overwrite": overwrite, "restart": restart}
        _write(source, output, engine, {"role": role, **keep, **options})


def _write(source: "Source", output: Path, engine: "EmbeddingEngine", options: dict[str, Any]) -> None:
    from mlx_qwen_embeddings.bulk import embed_file  # noqa: PLC0415 - as above

    with resumable(output):
        report = embed_file(source, output, model=engine, show_progress=sys.stderr.isatty(), **options)
    earlier = from_earlier(report.resumed)
    typer.echo(f"{output}: {report.rows:,} vectors of {report.dimensions:,} dimensions{earlier}")


def _blocks(source: "Source", engine: "EmbeddingEngine", role: Any, options: Any) -> Iterator[Any]:
    from mlx_qwen_embeddings.bulk.computing import bar, blocks  # noqa: PLC0415 - as above
    from mlx_qwen_embeddings.bulk.job import PART_ROWS  # noqa: PLC0415 - as above

    count = sum(1 for _ in source.texts())
    with bar(count, 0, show=sys.stderr.isatty() and count >= BAR_FROM) as shown:
        for block in blocks(engine, source.texts(), PART_ROWS, role, options):
            yield block
            shown.update(len(block))


def _printed(source: "Source", blocks: Iterator[Any], form: str, column: str) -> Iterator[str]:
    from mlx_qwen_embeddings.bulk.targets import columns_of, joined, records_with  # noqa: PLC0415 - as above

    vectors = (vector for block in blocks for vector in block)
    if form == "short":
        for text, vector in zip(source.texts(), vectors, strict=True):
            yield f"{_excerpt(text)}\n  {_short(vector)}\n"
    else:
        columns_of(source, form, column)  # type: ignore[arg-type]
        yield from joined(records_with(source.records(), vectors, column), form)  # type: ignore[arg-type]


def _excerpt(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN_CHARACTERS else f"{words[: SHOWN_CHARACTERS - 1]}…"


def _short(vector: Any) -> str:
    import numpy as np  # noqa: PLC0415 - as above

    floats = vector.dtype.kind == "f"
    values = "  ".join(f"{value:.4f}" if floats else str(value) for value in vector[:SHOWN_VALUES].tolist())
    size = f"{len(vector)} dimensions, norm {np.linalg.norm(vector.astype(np.float64)):.4f}" if floats else _bytes(vector)
    more = "  …" if len(vector) > SHOWN_VALUES else ""
    return f"{size}\n  {values}{more}"


def _bytes(vector: Any) -> str:
    return f"{len(vector)} bytes, {vector.dtype}"
