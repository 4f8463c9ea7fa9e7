"""Parquet, through pyarrow: columns keep their types."""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.bulk.sources import FileSource, Row, Source

BATCH_ROWS = 1024


def _arrow() -> Any:
    return require("pyarrow", "parquet", "Parquet")


class ParquetSource(FileSource):
    """Rows of a Parquet file."""

    def rows(self) -> Iterator[Row]:
        """Read the rows as Python values."""
        for batch in self.batches():
            yield from batch.to_pylist()

    def texts(self) -> Iterator[str]:
        """Read the one column."""
        if self.column not in self.schema.names:
            self.check(None, 1, self.schema.names)
        number = 0
        for batch in self.batches([self.column]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield self.check(text, number, self.schema.names)

    def batches(self, columns: list[str] | None = None) -> Iterator[Any]:
        """Read record batches."""
        with self._open() as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)

    @cached_property
    def schema(self) -> Any:
        """Names and types of the columns."""
        with self._open() as file:
            return file.schema_arrow

    def _open(self) -> Any:
        arrow = _arrow()
        try:
            return require("pyarrow.parquet", "parquet", "Parquet").ParquetFile(self.path)
        except arrow.ArrowException as error:
            message = f"{self.path} cannot be read as Parquet: {error}"
            raise ValueError(message) from error


def schema_of(source: Source) -> Any:
    """Give names and types of a source's columns; where it does not say them, from its values.

    Raises:
        ValueError: When a column holds values of types that do not go together.
    """
    if isinstance(source, ParquetSource):
        return source.schema
    arrow = _arrow()
    known = arrow.schema([])
    rows = source.rows()
    while chunk := list(islice(rows, BATCH_ROWS)):
        try:
            new = arrow.schema(list(arrow.array(chunk).type))
            known = arrow.unify_schemas([known, new], promote_options="permissive")
        except (arrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
            message = f"{source.name}: a column's values are of types that one Parquet column cannot hold ({error})"
            raise ValueError(f"{message}: write JSONL") from error
    return known


def write_parquet(source: Source, vectors: Iterator[NDArray[Any]], path: Path, column: str, schema: Any) -> None:
    """Write every row with its vector, a list of fixed size, as the last column.

    Args:
        source: The rows.
        vectors: Block after block; at least one, which may be empty.
        path: The file.
        column: Name of the vectors' column.
        schema: Of the other columns.
    """
    arrow, parquet = _arrow(), require("pyarrow.parquet", "parquet", "Parquet")
    waiting: list[NDArray[Any]] = [next(vectors)]
    whole = schema.append(arrow.field(column, cells(waiting[0]).type))
    with parquet.ParquetWriter(path, whole) as writer:
        for batch in _batches(source, schema):
            while sum(map(len, waiting)) < len(batch):
                waiting.append(next(vectors))
            rows = np.concatenate(waiting)
            waiting = [rows[len(batch) :]]
            writer.write_batch(arrow.record_batch([*batch.columns, cells(rows[: len(batch)])], schema=whole))


def cells(vectors: NDArray[Any]) -> Any:
    """Give vectors, shape (n, d), as an Arrow array of lists of fixed size."""
    flat = _arrow().array(np.ascontiguousarray(vectors).reshape(-1))
    return _arrow().FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def _batches(source: Source, schema: Any) -> Iterator[Any]:
    if isinstance(source, ParquetSource):
        yield from source.batches()
        return
    rows = source.rows()
    while chunk := list(islice(rows, BATCH_ROWS)):
        yield _arrow().RecordBatch.from_pylist(chunk, schema=schema)
