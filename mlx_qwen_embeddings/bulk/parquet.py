"""A corpus: the rows of many Parquet files as one sequence. Any range of it can be read."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.bulk.sources import ParquetSource


class RowGroup(NamedTuple):
    """The unit in which a Parquet file is read.

    ``start`` is the number of rows before it in the corpus, ``before`` the number before it in its file.
    """

    file: Path
    number: int
    start: int
    before: int
    rows: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """Parquet files with the same columns, in the order of their names.

    Attributes:
        path: The file, or the folder of the files.
        column: The column that holds the texts.
        groups: Row groups, in order.
        footers: Hash of the files' names, sizes and footers. A footer holds the size and offset of every column chunk, and
            usually its smallest and largest value. Hashing a terabyte of content would take hours.
        columns: Names of all columns.
    """

    path: Path
    column: str
    groups: tuple[RowGroup, ...]
    footers: str
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name to use in messages."""
        return str(self.path)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.groups[-1].start + self.groups[-1].rows if self.groups else 0

    def fingerprint(self) -> str:
        """Read the footers again and return their hash."""
        return open_corpus(self.path, self.column).footers


def open_corpus(path: Path, column: str) -> Corpus:
    """Read the footers of a Parquet file, or of all Parquet files in a folder.

    Raises:
        FileNotFoundError: When there is no Parquet file.
        ValueError: When a file cannot be read, lacks the column, or has other columns than the first file.
    """
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix.lower() == ".parquet")
    if not files:
        raise FileNotFoundError(f"{path} is neither a Parquet file nor a folder that holds any (*.parquet)")
    parquet, first = require("pyarrow.parquet", "parquet", "Parquet"), ParquetSource(files[0], column)
    first.check("", 1, first.schema.names)  # raises when the column is missing
    state, groups, start = hashlib.blake2b(digest_size=16), list[RowGroup](), 0
    for file in files:
        if not ParquetSource(file, column).schema.equals(first.schema):
            raise ValueError(f"{file} has other columns than {files[0]}: embed them separately, into two folders")
        state.update(f"{file.name} {file.stat().st_size} ".encode() + _footer(file))
        metadata, before = parquet.read_metadata(file), 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            groups.append(RowGroup(file.absolute(), number, start, before, rows))
            start, before = start + rows, before + rows
    return Corpus(path, column, tuple(groups), state.hexdigest(), tuple(first.schema.names))


def _footer(file: Path) -> bytes:
    # The last eight bytes of a Parquet file are the footer's length and a magic word.
    with file.open("rb") as opened:
        opened.seek(-8, 2)
        length = int.from_bytes(opened.read(4), "little")
        opened.seek(-8 - length, 2)
        return opened.read(length)


class RangeReader:
    """Reads ranges of a corpus, from any thread. Keeps the last row group, so that neighbouring ranges decode it once."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._held: tuple[RowGroup, Any] | None = None
        self._lock = threading.Lock()

    def table(self, start: int, stop: int) -> Any:
        """Return the rows from ``start`` up to ``stop`` with all columns, as a ``pyarrow.Table``."""
        groups = [group for group in self._corpus.groups if group.start < stop and group.start + group.rows > start]
        with self._lock:
            whole = require("pyarrow", "parquet", "Parquet").concat_tables(map(self._read, groups))
        return whole.slice(start - groups[0].start, stop - start)

    def texts(self, table: Any, start: int) -> list[str]:
        """Return the texts of a table that begins at row ``start`` of the corpus. Raise ``ValueError`` for a wrong row."""
        found: list[Any] = table.column(self._corpus.column).to_pylist()
        for row, text in enumerate(found, start):
            if not isinstance(text, str) or not text.isascii():
                group = next(group for group in self._corpus.groups if row < group.start + group.rows)
                source = ParquetSource(group.file, self._corpus.column)
                source.check(text, group.before + row - group.start + 1, self._corpus.columns)
        return found

    def _read(self, group: RowGroup) -> Any:
        if self._held is None or self._held[0] != group:
            self._held = None  # free it first: memory may not hold two
            with require("pyarrow.parquet", "parquet", "Parquet").ParquetFile(group.file) as file:
                self._held = group, file.read_row_group(group.number)
        return self._held[1]


def as_lists(vectors: NDArray[Any]) -> Any:
    """Return vectors, shape (n, d), as a ``pyarrow`` array of lists of d values."""
    arrow = require("pyarrow", "parquet", "Parquet")
    return arrow.FixedSizeListArray.from_arrays(arrow.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])
