"""``mlx-qwen embed``."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

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
from mlx_qwen_embeddings.cli.reading import InputFormat, open_texts

if TYPE_CHECKING:
    from mlx_qwen_embeddings.bulk.sources import Source
    from mlx_qwen_embeddings.engine import EmbeddingEngine

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
