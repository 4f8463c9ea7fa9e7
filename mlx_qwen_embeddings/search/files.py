"""Which files of a folder are indexed."""

import hashlib
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mlx_qwen_embeddings.search.passages import LANGUAGES, PLAIN

LARGEST = 8 * 2**20
"""Bytes of a text file; larger ones are data."""


def find(path: Path, pattern: str | None, limit: int | None) -> list[Path]:
    """Give the files below a folder in the order of their names, or the one file that is named.

    Hidden files and folders are left out, and without a pattern what does not look like text, code or PDF.

    Args:
        path: Folder or file.
        pattern: What a file's path below the folder has to match: "*.md", "docs/**/*.txt".
        limit: At most so many; None takes all.

    Raises:
        FileNotFoundError: When there is no such folder or file.
    """
    if not path.exists():
        message = f"there is no folder or file {path}"
        raise FileNotFoundError(message)
    if path.is_file():
        return [path.resolve()]
    return list(islice(_walk(path.resolve(), pattern), limit))


def _walk(root: Path, pattern: str | None) -> Iterator[Path]:
    for path in sorted(root.rglob(pattern or "*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        known = pattern is not None or path.suffix.lower() in LANGUAGES.keys() | PLAIN
        if not hidden and known and _may_be_text(path):
            yield path


def _may_be_text(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:  # a link to nowhere
        return False
    except OSError:  # whoever reads it learns why it cannot be read
        return True
    return stat.S_ISREG(status.st_mode) and (path.suffix.lower() == ".pdf" or status.st_size <= LARGEST)


def digest(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
