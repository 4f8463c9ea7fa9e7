"""What is read is what it should be, or the error names the file."""

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
"""What comes of a file that is cut off, in another encoding, or of another form."""


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong inside into an error that names the file and what it should be.

    Args:
        path: The file.
        what: In words.

    Raises:
        ValueError: If it is something else.
    """
    try:
        yield
    except WRONG as error:
        raise ValueError(f"{path} is not {what}: {error}") from error
