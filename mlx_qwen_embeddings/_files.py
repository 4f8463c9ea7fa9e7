"""Hash files, write sizes for people, and replace files so that a kill or a power cut leaves the old content or the new."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

_UNITS = ("B", "kB", "MB", "GB", "TB")


def file_digest(path: Path, algorithm: Literal["blake2b", "sha256"] = "blake2b") -> str:
    """Return the hash of a file's content, in hexadecimal.

    Args:
        path: The file.
        algorithm: "blake2b" gives 128 bits, for records of this package; "sha256" is what the Hub publishes.
    """
    with path.open("rb") as file:
        if algorithm == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def human_size(count: float) -> str:
    """Return a number of bytes in words, by powers of 1,000: "999 B", "1.0 kB", "5.9 GB"."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - as said above
        count, unit = count / 1000, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of ``path`` once it is written and on the disk."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    move(temporary, path)


def move(source: Path, target: Path) -> None:
    """Rename in one step, and wait until the new name is on the disk.

    The content has to be there already: after a power cut, a file that was renamed before it was written out may be empty.
    """
    source.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything in it is on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
