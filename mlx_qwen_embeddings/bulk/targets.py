"""Write rows and vectors to one file, in the format that its suffix names."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.bulk.parquet import as_lists
from mlx_qwen_embeddings.bulk.sources import BATCH_ROWS, ParquetSource, Source, to_json

Format: TypeAlias = Literal["json", "jsonl", "npy", "parquet"]
FORMATS: dict[str, Format] = {".json": "json", ".jsonl": "jsonl", ".npy": "npy", ".parquet": "parquet"}


def format_of(target: Path) -> Format:
    """Return the format for a file's suffix; raise ``ValueError`` for an unknown one."""
    form = FORMATS.get(target.suffix.lower())
    if form is None:
        raise ValueError(f"{target}: the name of the output must end in one of {', '.join(FORMATS)}")
    return form


def columns_of(source: Source, form: Format, column: str) -> Any:
    """Return the source's columns as a ``pyarrow.Schema`` for Parquet, otherwise None, before anything is computed.

    Raises:
        ValueError: When the target cannot hold them, or a column already has the name of the vectors.
    """
    if form == "parquet":
        schema = _schema_of(source)
        check_free(column, schema.names, source.name)
        return schema
    if form != "npy":
        for row in source.rows():
            check_free(column, row, source.name)
            to_json(row, source.name)
    return None


def _schema_of(source: Source) -> Any:
    if isinstance(source, ParquetSource):
        return source.schema
    arrow = require("pyarrow", "parquet", "Parquet")
    known, rows = arrow.schema([]), source.rows()
    while chunk := list(islice(rows, BATCH_ROWS)):
        try:
            new = arrow.schema(list(arrow.array(chunk).type))
            known = arrow.unify_schemas([known, new], promote_options="permissive")
        except (arrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
            message = f"{source.name}: a column's values are of types that one Parquet column cannot hold ({error})"
            raise ValueError(f"{message}: write JSONL") from error
    return known


def check_free(column: str, names: Iterable[str], source: str) -> None:
    """Raise ``ValueError`` when the source already has a column with the name of the vectors."""
    if column in names:
        raise ValueError(f"{source} has a column {column!r} already: choose another name for the vectors")


def write_target(
    source: Source, blocks: Iterator[NDArray[Any]], path: Path, form: Format, *, rows: int, column: str, schema: Any
) -> None:
    """Write rows and vectors to ``path``.

    ``blocks`` are arrays of any number of vectors. The first is empty, and has the width and type of all. ``schema`` is
    what ``columns_of`` returned.
    """
    if form == "parquet":
        _write_parquet(source, blocks, path, column, schema)
    elif form == "npy":
        _write_npy(blocks, path, rows)
    else:
        lines = records_with(source.records(), chain.from_iterable(blocks), column)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(joined(lines, form))


def joined(lines: Iterable[str], form: Format) -> Iterator[str]:
    """Return JSON objects as one per line for "jsonl", otherwise as one array."""
    if form == "jsonl":
        yield from (f"{line}\n" for line in lines)
        return
    yield "["
    for number, line in enumerate(lines):
        yield f",\n{line}" if number else f"\n{line}"
    yield "\n]\n"


def records_with(records: Iterable[str], vectors: Iterable[NDArray[Any]], column: str) -> Iterator[str]:
    """Add a vector to each JSON object, and leave the rest of its text unchanged."""
    name = json.dumps(column, ensure_ascii=False)
    for record, vector in zip(records, vectors, strict=True):
        inside = record[1:-1].rstrip()
        # Nine significant digits are enough to read back the same float32.
        digits = ".9g" if vector.dtype.kind == "f" else "d"
        values = ", ".join(format(value, digits) for value in vector.tolist())
        yield f"{{{inside}{', ' if inside.strip() else ''}{name}: [{values}]}}"


def _write_npy(blocks: Iterator[NDArray[Any]], path: Path, rows: int) -> None:
    first = next(blocks)
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(rows, first.shape[1]))
    start = 0
    for block in blocks:
        whole[start : start + len(block)] = block
        start += len(block)
    whole.flush()


def _write_parquet(source: Source, blocks: Iterator[NDArray[Any]], path: Path, column: str, schema: Any) -> None:
    arrow, parquet = require("pyarrow", "parquet", "Parquet"), require("pyarrow.parquet", "parquet", "Parquet")
    vectors = next(blocks)
    whole = schema.append(arrow.field(column, as_lists(vectors).type))
    with parquet.ParquetWriter(path, whole) as writer:
        for batch in _record_batches(source, schema):
            while len(vectors) < len(batch):
                vectors = np.concatenate([vectors, next(blocks)])
            columns = [*batch.columns, as_lists(vectors[: len(batch)])]
            writer.write_batch(arrow.record_batch(columns, schema=whole))
            vectors = vectors[len(batch) :]


def _record_batches(source: Source, schema: Any) -> Iterator[Any]:
    if isinstance(source, ParquetSource):
        yield from source.batches()
        return
    rows = source.rows()
    while chunk := list(islice(rows, BATCH_ROWS)):
        yield require("pyarrow", "parquet", "Parquet").RecordBatch.from_pylist(chunk, schema=schema)
