"""The finished file: rows and vectors together, in the form that its name asks for."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.bulk.parquet import schema_of, write_parquet
from mlx_qwen_embeddings.bulk.sources import Source, to_json

Format: TypeAlias = Literal["json", "jsonl", "npy", "parquet"]
SUFFIXES: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npy": "npy",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def format_of(target: Path) -> Format:
    """Give the form that a file's name asks for.

    Raises:
        ValueError: When it names none.
    """
    form = SUFFIXES.get(target.suffix.lower())
    if form is None:
        message = f"{target}: the name of the output has to end in one of {', '.join(SUFFIXES)}"
        raise ValueError(message)
    return form


def columns_of(source: Source, form: Format, column: str) -> Any:
    """Check, before anything is computed, that the source's columns fit into the target.

    Returns:
        Their types for Parquet, else None.

    Raises:
        ValueError: When they do not, or one has the name that the vectors are to have.
    """
    if form == "parquet":
        schema = schema_of(source)
        _check_free(column, schema.names, source.name)
        return schema
    if form != "npy":
        for row in source.rows():
            _check_free(column, row, source.name)
            to_json(row, source.name)
    return None


def _check_free(column: str, names: Iterable[str], source: str) -> None:
    if column in names:
        message = f"{source} has a column {column!r} already: give the vectors another name"
        raise ValueError(message)


def write_target(
    source: Source, vectors: Iterator[NDArray[Any]], path: Path, form: Format, *, rows: int, column: str, schema: Any
) -> None:
    """Write the file.

    Args:
        source: The rows.
        vectors: Their vectors, block after block; at least one block, which may be empty.
        path: The file.
        form: What to write.
        rows: How many there are.
        column: Name of the vectors' column; .npy has none.
        schema: What ``columns_of`` gave.
    """
    if form == "parquet":
        write_parquet(source, vectors, path, column, schema)
    elif form == "npy":
        _write_npy(vectors, path, rows)
    else:
        lines = records_with(source.records(), (vector for block in vectors for vector in block), column)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(joined(lines, form))


def joined(lines: Iterable[str], form: Format) -> Iterator[str]:
    """Put JSON objects one a line, or into one array."""
    if form == "jsonl":
        yield from (f"{line}\n" for line in lines)
        return
    yield "["
    for number, line in enumerate(lines):
        yield f",\n{line}" if number else f"\n{line}"
    yield "\n]\n"


def records_with(records: Iterable[str], vectors: Iterable[NDArray[Any]], column: str) -> Iterator[str]:
    """Add a vector to each JSON object, whose text is otherwise kept."""
    name = json.dumps(column, ensure_ascii=False)
    for record, vector in zip(records, vectors, strict=True):
        inside = record[1:-1].rstrip()
        yield f"{{{inside}{', ' if inside.strip() else ''}{name}: {vector_json(vector)}}}"


def vector_json(vector: NDArray[Any]) -> str:
    """Write a vector with as many digits as give the same float32 again."""
    if vector.dtype.kind != "f":
        return f"[{', '.join(map(str, vector.tolist()))}]"
    return f"[{', '.join(f'{value:.9g}' for value in vector.tolist())}]"


def _write_npy(vectors: Iterator[NDArray[Any]], path: Path, rows: int) -> None:
    first = next(vectors)
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(rows, first.shape[1]))
    start = 0
    for block in chain([first], vectors):
        whole[start : start + len(block)] = block
        start += len(block)
    whole.flush()
