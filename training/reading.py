"""Turn the errors of a wrong or damaged input file into one that names the file."""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

WRONG = (
    UnicodeDecodeError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ET.ParseError,
    json.JSONDecodeError,
    KeyError,
    TypeError,
    AttributeError,
)
"""The errors that a truncated file, another encoding or another format can cause."""


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn errors in this block into one that names the file and what it should be.

    Args:
        path: The file.
        what: What the file should be, in words.

    Raises:
        ValueError: If the file is something else.
    """
    try:
        yield
    except WRONG as error:
        raise ValueError(f"{path} is not {what}: {error}") from error
