"""What is wrong with the file of a persistent cache, in words."""

import sqlite3
from pathlib import Path

from mlx_qwen_embeddings.errors import CacheFileError

APPLICATION = 0x4D514543
"""SQLite's application id: tells this package's files from others ("MQEC")."""

_REMEDIES = {
    sqlite3.SQLITE_BUSY: "end the program that holds it, or name another file in cache_path",
    sqlite3.SQLITE_FULL: "make room on its disk, or name a file on another one in cache_path",
    sqlite3.SQLITE_IOERR: "its disk is full or fails: see to that, or name a file on another one in cache_path",
    sqlite3.SQLITE_CORRUPT: "its content is broken: run mlx-qwen cache clear '{path}'",
    sqlite3.SQLITE_NOTADB: "if it was a cache, it is broken: delete it; if not, name another file in cache_path",
}
_NO_ACCESS = "make its folder one that this user may write to, or name another file in cache_path"


def describe(path: Path, error: Exception) -> str:
    """Say what failed, and what the user can do about it."""
    if isinstance(error, CacheFileError):
        return str(error)
    return f"{path}: {error}; {_REMEDIES.get(_code(error), _NO_ACCESS).format(path=path)}"


def is_busy(error: Exception) -> bool:
    """Whether another connection stood in the way."""
    return _code(error) == sqlite3.SQLITE_BUSY


def is_broken(error: Exception) -> bool:
    """Whether the content is what is wrong."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_ours(path: Path) -> bool:
    """Whether a file begins as those of this package do, whatever the rest of it looks like."""
    with path.open("rb") as file:
        head = file.read(72)
    return head.startswith(b"SQLite format 3\0") and head[68:] == APPLICATION.to_bytes(4, "big")


def _code(error: Exception) -> int:
    # The low byte of SQLite's extended codes is the kind of the error.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN) & 0xFF
