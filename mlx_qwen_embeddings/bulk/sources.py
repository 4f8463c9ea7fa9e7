"""Rows to embed: lines of text, JSON Lines, CSV, Parquet, or what a caller holds in memory."""

import csv
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings._files import file_digest
from mlx_qwen_embeddings.options import check_unicode

BATCH_ROWS = 1024
"""Rows to read or decode at a time."""

LONGEST_CELL = 2**31 - 1
"""Most characters in a CSV cell. Python's default limit is 131,072, and a text may be longer."""

Row = Mapping[str, Any]


class Source(ABC):
    """Rows in a fixed order that can be read repeatedly. One column holds the texts. Errors name the source."""

    def __init__(self, name: str, column: str) -> None:
        self.name, self.column = name, column

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Read every row with all its columns."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the content; equal hashes mean equal rows."""

    def texts(self) -> Iterator[str]:
        """Read only the texts. Raise ``ValueError`` for a row without one; the message counts rows from 1."""
        for number, row in enumerate(self.rows(), 1):
            yield self.check(row.get(self.column), number, row)

    def records(self) -> Iterator[str]:
        """Return every row as a JSON object."""
        for row in self.rows():
            yield to_json(row, self.name)

    def check(self, text: object, number: int, columns: Sequence[str] | Row) -> str:
        """Return the text of a row, or raise a ``ValueError`` that says what the row holds instead."""
        place = f"{self.name}, row {number}"
        if self.column not in columns:
            there = ", ".join(map(repr, columns)) or "none"
            raise ValueError(f"{place} has no column {self.column!r}, but {there}: choose one of its columns")
        if not isinstance(text, str):
            kind = "empty" if text is None else f"a value of type {type(text).__name__}"
            # The file is wrong, not the call.
            raise ValueError(f"{place}: column {self.column!r} is {kind}, not a text: leave the row out")  # noqa: TRY004
        check_unicode(text, place)
        return text


class MemorySource(Source):
    """Rows that the caller holds in memory."""

    def __init__(self, rows: Sequence[Row], *, name: str = "the input", column: str = "text") -> None:
        super().__init__(name, column)
        self._rows = rows

    def rows(self) -> Iterator[Row]:
        """Return the rows."""
        yield from self._rows

    def fingerprint(self) -> str:
        """Hash the rows."""
        return hashlib.blake2b(json.dumps(list(self._rows), sort_keys=True).encode(), digest_size=16).hexdigest()


class FileSource(Source):
    """Rows of a file, which is opened when it is read."""

    def __init__(self, path: Path, column: str) -> None:
        super().__init__(str(path), column)
        self.path = path

    def fingerprint(self) -> str:
        """Hash the file."""
        return file_digest(self.path)

    def lines(self) -> Iterator[str]:
        """Read the lines without their line ends, and without a byte order mark."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                whole = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                try:
                    yield whole.removesuffix(b"\n").removesuffix(b"\r").decode()
                except UnicodeDecodeError as error:
                    message = f"{self.name}, line {number} is not UTF-8 ({error.reason}): convert the file"
                    raise ValueError(message) from error


class LineSource(FileSource):
    """One text per line. An empty line is an empty text, so that every line has a vector."""

    def rows(self) -> Iterator[Row]:
        """Read the lines."""
        for line in self.lines():
            yield {self.column: line}


class JsonLinesSource(FileSource):
    """One JSON object per line. Empty lines are skipped."""

    def rows(self) -> Iterator[Row]:
        """Parse the lines."""
        for number, line in enumerate(self.lines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self.name}, line {number} is not JSON ({error})") from error
            if not isinstance(row, dict):
                message = f"{self.name}, line {number} is not a JSON object: every line must be one, {{...}}"
                raise ValueError(message)  # noqa: TRY004 - the file is wrong, not the call
            yield row

    def records(self) -> Iterator[str]:
        """Return the lines unchanged: parsing and rewriting a number may change its digits."""
        return filter(None, map(str.strip, self.lines()))


class CsvSource(FileSource):
    """Comma-separated cells. The first row names the columns; every cell is a string."""

    delimiter = ","

    def rows(self) -> Iterator[Row]:
        """Read the rows."""
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            try:
                names = next(reader, [])
                if repeated := [name for position, name in enumerate(names) if name in names[:position]]:
                    raise ValueError(f"{self.name} has two columns {repeated[0]!r}: rename one of them")
                for number, cells in enumerate(filter(None, reader), 1):
                    if len(cells) != len(names):
                        message = f"{self.name}, row {number} has {len(cells)} cells, but there are {len(names)} columns"
                        raise ValueError(message)
                    yield dict(zip(names, cells, strict=True))
            except (csv.Error, UnicodeDecodeError) as error:
                message = f"{self.name}, line {reader.line_num + 1} cannot be read as CSV in UTF-8: {error}"
                raise ValueError(message) from error


class TsvSource(CsvSource):
    """Tab-separated cells."""

    delimiter = "\t"


class ParquetSource(FileSource):
    """Rows of a Parquet file."""

    def rows(self) -> Iterator[Row]:
        """Read the rows as Python values."""
        for batch in self.batches():
            yield from batch.to_pylist()

    def texts(self) -> Iterator[str]:
        """Read only the column of the texts."""
        columns = self.schema.names
        self.check("", 1, columns)  # raises when the column is missing, even if there are no rows
        texts = (text for batch in self.batches([self.column]) for text in batch.column(0).to_pylist())
        for number, text in enumerate(texts, 1):
            yield self.check(text, number, columns)

    def batches(self, columns: list[str] | None = None) -> Iterator[Any]:
        """Read ``pyarrow.RecordBatch``es of the given columns; None means all."""
        with self._open() as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)

    @cached_property
    def schema(self) -> Any:
        """Names and types of the columns, as a ``pyarrow.Schema``."""
        with self._open() as file:
            return file.schema_arrow

    def _open(self) -> Any:
        arrow, parquet = require("pyarrow", "parquet", "Parquet"), require("pyarrow.parquet", "parquet", "Parquet")
        try:
            return parquet.ParquetFile(self.path)
        except arrow.ArrowException as error:
            raise ValueError(f"{self.path} cannot be read as Parquet: {error}") from error


SOURCES: dict[str, type[FileSource]] = {
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".csv": CsvSource,
    ".tsv": TsvSource,
    ".parquet": ParquetSource,
}


def open_source(path: Path, column: str = "text", suffix: str | None = None) -> FileSource:
    """Return the rows of a file. ``suffix`` names its format, such as ".csv"; None takes the suffix of its name.

    A file with an unknown suffix is read as one text per line. A .json file raises ``ValueError``: it may hold an array.
    """
    found = (path.suffix if suffix is None else suffix).lower()
    if found == ".json":
        message = f"{path}: rows are read from JSON Lines, one object per line: convert it, jq -c '.[]' {path} > {path}l"
        raise ValueError(message)
    return SOURCES.get(found, LineSource)(path, column)


def to_json(row: Row, name: str) -> str:
    """Return a row as a JSON object: times in ISO 8601, decimals as strings, NaN and infinity as null.

    Any other value that JSON cannot hold raises ``ValueError``; the message begins with ``name``.
    """
    try:
        try:
            return json.dumps(row, ensure_ascii=False, default=_plain, allow_nan=False)
        except ValueError:
            return json.dumps(_without_nan(row), ensure_ascii=False, default=_plain)
    except TypeError as error:
        raise ValueError(f"{name}: a column cannot be written as JSON ({error}): write Parquet") from error


def _without_nan(value: Any) -> Any:
    """Replace infinity, and NaN, which pandas uses for missing values, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    return [_without_nan(part) for part in value] if isinstance(value, list | tuple) else value


def _plain(value: object) -> str:
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"it holds {type(value).__name__}")
