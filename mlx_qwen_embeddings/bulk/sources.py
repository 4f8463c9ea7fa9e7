"""Rows to embed: lines, JSON Lines, CSV, or what a caller holds in memory. Parquet is in its own module."""

import csv
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import file_digest
from mlx_qwen_embeddings.options import check_unicode

LONGEST_CELL = 2**31 - 1
"""Characters of a CSV cell; Python's own bound is 131,072, and a text may be longer."""

Row = Mapping[str, Any]


class Source(ABC):
    """Rows in a fixed order, of which one column holds the texts; they can be read again and again."""

    def __init__(self, name: str, column: str) -> None:
        """Name the rows for messages, and the column of the texts."""
        self.name = name
        self.column = column

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Read every row with all its columns."""

    @abstractmethod
    def digest(self) -> str:
        """Hash the content: the same one means the same rows."""

    def texts(self) -> Iterator[str]:
        """Read the texts alone.

        Raises:
            ValueError: When a row has none; the message counts rows from 1.
        """
        for number, row in enumerate(self.rows(), 1):
            yield self.check(row.get(self.column), number, row)

    def records(self) -> Iterator[str]:
        """Give every row as a JSON object."""
        for row in self.rows():
            yield to_json(row, self.name)

    def check(self, text: object, number: int, columns: Sequence[str] | Row) -> str:
        """Give the text of a row, or say what is there instead."""
        if self.column not in columns:
            there = ", ".join(map(repr, columns)) or "none"
            message = f"{self.name}, row {number} has no column {self.column!r}, but {there}: choose one of its columns"
            raise ValueError(message)
        if not isinstance(text, str):
            kind = "empty" if text is None else f"a {type(text).__name__}"
            message = f"{self.name}, row {number}: column {self.column!r} is {kind}, not a text: leave the row out"
            raise ValueError(message)  # noqa: TRY004 - it is the file that is wrong, not the call
        if not text.isascii():
            check_unicode(text, f"{self.name}, row {number}")
        return text


class MemorySource(Source):
    """Rows that the caller has."""

    def __init__(self, rows: Sequence[Row], *, name: str = "the texts", column: str = "text") -> None:
        """Keep the rows."""
        super().__init__(name, column)
        self._rows = rows

    def rows(self) -> Iterator[Row]:
        """Give them."""
        yield from self._rows

    def digest(self) -> str:
        """Hash them."""
        return hashlib.blake2b(json.dumps(list(self._rows), sort_keys=True).encode(), digest_size=16).hexdigest()


class FileSource(Source):
    """Rows of a file."""

    def __init__(self, path: Path, column: str) -> None:
        """Say which file; it is opened when it is read."""
        super().__init__(str(path), column)
        self.path = path

    def digest(self) -> str:
        """Hash the file."""
        return file_digest(self.path)

    def lines(self) -> Iterator[str]:
        """Read lines without their ends; a byte order mark is no text."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                whole = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                try:
                    yield whole.removesuffix(b"\n").removesuffix(b"\r").decode()
                except UnicodeDecodeError as error:
                    message = f"{self.name}, line {number} is not UTF-8 ({error.reason}): convert the file"
                    raise ValueError(message) from error


class LineSource(FileSource):
    """A text a line; an empty line is an empty text, so that vectors and lines keep in step."""

    def rows(self) -> Iterator[Row]:
        """Read the lines."""
        for line in self.lines():
            yield {self.column: line}


class JsonLinesSource(FileSource):
    """A JSON object a line; empty lines are no rows."""

    def rows(self) -> Iterator[Row]:
        """Parse the lines."""
        for row, _ in self._parsed():
            yield row

    def records(self) -> Iterator[str]:
        """Give the lines as they are: a number parsed and written again may change its digits."""
        for _, line in self._parsed():
            yield line

    def _parsed(self) -> Iterator[tuple[Row, str]]:
        for number, line in enumerate(self.lines(), 1):
            record = line.strip()
            if record:
                yield self._parse(record, number), record

    def _parse(self, record: str, number: int) -> Row:
        try:
            row = json.loads(record)
        except (ValueError, RecursionError) as error:
            message = f"{self.name}, line {number} is not JSON ({error})"
            raise ValueError(message) from error
        if not isinstance(row, dict):
            message = f"{self.name}, line {number} is no JSON object: every line has to be one, {{...}}"
            raise ValueError(message)  # noqa: TRY004 - it is the file that is wrong, not the call
        return row


class CsvSource(FileSource):
    """Cells divided by commas; the first row names the columns; all are strings."""

    delimiter = ","

    def rows(self) -> Iterator[Row]:
        """Read the rows."""
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            try:
                names = next(reader, [])
                self._check_names(names)
                for number, cells in enumerate(filter(None, reader), 1):
                    if len(cells) != len(names):
                        message = f"{self.name}, row {number} has {len(cells)} cells, but there are {len(names)} columns"
                        raise ValueError(message)
                    yield dict(zip(names, cells, strict=True))
            except (csv.Error, UnicodeDecodeError) as error:
                message = f"{self.name}, line {reader.line_num + 1} cannot be read as CSV in UTF-8: {error}"
                raise ValueError(message) from error

    def _check_names(self, names: list[str]) -> None:
        twice = [name for position, name in enumerate(names) if name in names[:position]]
        if twice:
            message = f"{self.name} has two columns {twice[0]!r}: name them apart"
            raise ValueError(message)


class TsvSource(CsvSource):
    """The same with tabs."""

    delimiter = "\t"


def to_json(row: Row, name: str) -> str:
    """Write a row as a JSON object; moments as ISO 8601, decimals as strings, NaN and infinity as null.

    Raises:
        ValueError: For what JSON has no form for.
    """
    try:
        try:
            return json.dumps(row, ensure_ascii=False, default=_plain, allow_nan=False)
        except ValueError:
            return json.dumps(_without_nan(row), ensure_ascii=False, default=_plain)
    except TypeError as error:
        message = f"{name}: a column cannot be written as JSON ({error}): write Parquet"
        raise ValueError(message) from error


def _without_nan(value: Any) -> Any:
    """Put null where JSON has no number, as pandas does, which means by NaN that there is no value."""
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
    message = f"it holds {type(value).__name__}"
    raise TypeError(message)
