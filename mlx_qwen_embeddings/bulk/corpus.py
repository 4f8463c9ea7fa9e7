"""Rows of many Parquet files as one sequence, of which any range can be read."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.bulk.parquet import ParquetSource

SUFFIXES = (".parquet", ".pq")


class RowGroup(NamedTuple):
    """What Parquet reads at once: its file, its place there, and the rows before it in the corpus and in the file."""

    file: Path
    number: int
    start: int
    before: int
    rows: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """Parquet files of one schema, in the order of their names.

    Attributes:
        name: For messages.
        column: Which column holds the texts.
        groups: Row groups, in order.
        digest: Hash of the files' sizes and footers. A footer holds sizes, places and, as written by most programs,
            extremes of every column in every row group; reading a terabyte to hash it would take hours.
        columns: Names of all columns.
    """

    name: str
    column: str
    groups: tuple[RowGroup, ...]
    digest: str
    columns: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.groups[-1].start + self.groups[-1].rows if self.groups else 0


def open_corpus(path: Path, column: str) -> Corpus:
    """Read the footers of a Parquet file, or of all those in a folder.

    Raises:
        FileNotFoundError: When there is none.
        ValueError: When one cannot be read, lacks the column, or differs from the first in its columns.
    """
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        message = f"{path} is no Parquet file and no folder that holds any (*.parquet)"
        raise FileNotFoundError(message)
    parquet = require("pyarrow.parquet", "parquet", "Parquet")
    first = ParquetSource(files[0], column).schema
    if column not in first.names:
        ParquetSource(files[0], column).check(None, 1, first.names)
    state, groups, start = hashlib.blake2b(digest_size=16), list[RowGroup](), 0
    for file in files:
        schema = ParquetSource(file, column).schema
        if not schema.equals(first):
            message = f"{file} has other columns than {files[0]}: embed them apart, into two folders"
            raise ValueError(message)
        state.update(f"{file.name} {file.stat().st_size} ".encode() + _footer(file))
        metadata, before = parquet.read_metadata(file), 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            groups.append(RowGroup(file.absolute(), number, start, before, rows))
            start, before = start + rows, before + rows
    return Corpus(str(path), column, tuple(groups), state.hexdigest(), tuple(first.names))


def _footer(file: Path) -> bytes:
    # The last eight bytes of a Parquet file are the footer's length and a magic word.
    with file.open("rb") as opened:
        opened.seek(-8, 2)
        length = int.from_bytes(opened.read(4), "little")
        opened.seek(-8 - length, 2)
        return opened.read(length)


class RangeReader:
    """Reads ranges of a corpus; it keeps one row group, so that neighbouring ranges decode it once. Safe in threads."""

    def __init__(self, corpus: Corpus) -> None:
        """Open nothing yet."""
        self._corpus = corpus
        self._held: tuple[RowGroup, Any] | None = None
        self._lock = threading.Lock()

    def table(self, start: int, stop: int) -> Any:
        """Give the rows from ``start`` up to ``stop`` with all columns, as a ``pyarrow.Table``."""
        arrow = require("pyarrow", "parquet", "Parquet")
        with self._lock:
            return arrow.concat_tables([rows for _, rows in self._pieces(start, stop)])

    def texts(self, table: Any, start: int) -> list[str]:
        """Give the texts of a table that ``table`` gave.

        Raises:
            ValueError: When a row has none; the message names file and row.
        """
        found: list[Any] = table.column(self._corpus.column).to_pylist()
        for place, text in enumerate(found):
            if not isinstance(text, str) or not text.isascii():
                group = next(group for group in self._corpus.groups if start + place < group.start + group.rows)
                number = group.before + start + place - group.start + 1
                ParquetSource(group.file, self._corpus.column).check(text, number, self._corpus.columns)
        return found

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[RowGroup, Any]]:
        for group in self._corpus.groups:
            if group.start < stop and group.start + group.rows > start:
                rows = self._read(group)
                first = max(start, group.start) - group.start
                yield group, rows.slice(first, min(stop, group.start + group.rows) - group.start - first)

    def _read(self, group: RowGroup) -> Any:
        if self._held is None or self._held[0] != group:
            self._held = None  # before the next is read: two may not fit
            parquet = require("pyarrow.parquet", "parquet", "Parquet")
            with parquet.ParquetFile(group.file) as file:
                self._held = group, file.read_row_group(group.number)
        return self._held[1]
