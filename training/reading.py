"""What is read is what it should be, or the error names the file."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET


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
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, ET.ParseError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is not {what}: {error}") from error
