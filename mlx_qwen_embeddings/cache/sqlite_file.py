"""The file of the persistent cache: two SQLite tables, bounded in bytes. Methods raise ``ERRORS``."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_qwen_embeddings.errors import CacheFileError

APPLICATION = 0x4D514543
"""SQLite's application id, "MQEC": marks this package's files."""

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; the second when a damaged name or value in the file is not UTF-8."""

_REMEDIES = {
    sqlite3.SQLITE_BUSY: "end the program that holds it, or name another file in cache_path",
    sqlite3.SQLITE_FULL: "make room on its disk, or name a file on another one in cache_path",
    sqlite3.SQLITE_IOERR: "its disk is full or fails: see to that, or name a file on another one in cache_path",
    sqlite3.SQLITE_CORRUPT: "its content is broken: run mlx-qwen cache clear '{path}'",
    sqlite3.SQLITE_NOTADB: "if it was a cache, it is broken: delete it; if not, name another file in cache_path",
}
_NO_ACCESS = "make its folder one that this user may write to, or name another file in cache_path"

SCHEMA = 1
"""Raised when the tables change. An older file is emptied, a newer one is not touched."""

PAGE_BYTES = 2048
"""Vectors of 384 to 4,096 components fill 75 to 98 per cent of such pages, in either precision. With SQLite's default of
4,096, float16 would save nothing at 1,024 components. With larger pages, adding a key to the index costs more."""

JOURNAL_BYTES = 16 * 2**20
"""Size above which the write-ahead journal is copied into the file, and to which it is cut."""

_CHUNK = 500  # keys per query: older builds of SQLite allow 999
_DROPPED_AT_ONCE = 16

_TABLES = (
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, created INT NOT NULL, used INT NOT NULL)",
    "CREATE INDEX by_use ON entries (used)",
    # In a table of their own, so that noting a use or finding the oldest entry reads no vector.
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
)


def explain(path: Path, error: Exception) -> str:
    """Return what failed, and what the user can do about it."""
    if isinstance(error, CacheFileError):
        return str(error)
    return f"{path}: {error}; {_REMEDIES.get(_code(error), _NO_ACCESS).format(path=path)}"


def is_broken_cache(path: Path, error: Exception) -> bool:
    """Return whether the content of a file is broken, but starts like that of a cache of this package."""
    with path.open("rb") as file:
        head = file.read(72)
    ours = head.startswith(b"SQLite format 3\0") and head[68:] == APPLICATION.to_bytes(4, "big")
    return ours and _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: Exception) -> int:
    if isinstance(error, OSError):
        return sqlite3.SQLITE_CANTOPEN
    # The low byte of SQLite's extended codes is the primary code. Only text that is not UTF-8 fails without a code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache file holds.

    Attributes:
        path: The file.
        entries: Number of vectors.
        file_bytes: Size of the file and its journal.
        used_bytes: Size of the pages in use, which is what is bounded.
        oldest: When the least recently used entry was used, in seconds since 1970; None when there are no entries.
        newest: The same for the most recently used one.
    """

    path: Path
    entries: int
    file_bytes: int
    used_bytes: int
    oldest: float | None
    newest: float | None


class CacheFile:
    """One connection to the file, for one thread at a time and never across a fork. Times are milliseconds since 1970."""

    def __init__(self, path: Path, *, seconds: float) -> None:
        """Open the file; make it if it is missing.

        Args:
            path: The file; its folder is made too.
            seconds: Longest wait for another process that is writing.

        Raises:
            CacheFileError: When the file belongs to another program or a newer version.
            ERRORS: When it cannot be opened, or is broken.
            OSError: When its folder cannot be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._milliseconds = round(seconds * 1000)
        self._connection = sqlite3.connect(path, seconds, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
            self._inode = path.stat().st_ino
        except BaseException:
            self._connection.close()
            raise

    @property
    def is_there(self) -> bool:
        """Whether the path is still that of the open file, which may have been deleted or replaced."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA trusted_schema = OFF")
        execute("PRAGMA cache_size = -16384")  # KiB: the index of 100,000 entries and more
        if not self._current:
            execute(f"PRAGMA page_size = {PAGE_BYTES}")
            with self._writing():  # another process may be doing the same
                self._make_tables()
        execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing that was committed; a power cut may lose the last commits, and no more.
        execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA wal_autocheckpoint = {JOURNAL_BYTES // PAGE_BYTES}")
        execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")

    @property
    def _current(self) -> bool:
        return (self._pragma("application_id"), self._pragma("user_version")) == (APPLICATION, SCHEMA)

    def _make_tables(self) -> None:
        if self._current:
            return
        execute = self._connection.execute
        found = [name for (name,) in execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        application, version = self._pragma("application_id"), self._pragma("user_version")
        if application != APPLICATION and (found or application or version):
            raise CacheFileError(f"{self.path} is a database of another program: name another file in cache_path")
        if version > SCHEMA:
            raise CacheFileError(
                f"{self.path} was written by a newer mlx-qwen-embeddings (schema {version}, this one reads {SCHEMA}) and "
                "is left as it is: update the package, or name another file in cache_path"
            )
        for name in found:
            execute('DROP TABLE "{}"'.format(name.replace('"', '""')))
        for statement in _TABLES:
            execute(statement)
        execute(f"PRAGMA application_id = {APPLICATION}")
        execute(f"PRAGMA user_version = {SCHEMA}")

    def get(self, keys: Sequence[bytes], *, since: int | None = None) -> dict[bytes, object]:
        """Look keys up.

        Args:
            keys: Any number.
            since: Only entries stored after this time; None takes all.

        Returns:
            The stored data by key, unchecked.
        """
        query = "SELECT key, data FROM entries JOIN vectors USING (id) WHERE key IN ({}) AND created > ?"
        found: dict[bytes, object] = {}
        for chunk, marks in _chunks(keys):
            found.update(self._connection.execute(query.format(marks), (*chunk, -1 if since is None else since)))
        return found

    def put(self, rows: dict[bytes, bytes], now: int, max_bytes: int) -> None:
        """Store data by key in one transaction, and drop the least recently used entries beyond the bound."""
        with self._writing():
            insert = self._connection.executemany
            entry = "INSERT INTO entries (key, created, used) VALUES (?, ?, ?)"
            again = "ON CONFLICT (key) DO UPDATE SET created = excluded.created, used = excluded.used"
            insert(f"{entry} {again}", ((key, now, now) for key in rows))
            insert(
                "INSERT OR REPLACE INTO vectors SELECT id, ? FROM entries WHERE key = ?",
                ((data, key) for key, data in rows.items()),
            )
            self._drop_beyond(max_bytes)

    def touch(self, keys: Sequence[bytes], now: int) -> None:
        """Note that entries were used, unless another process is writing: it is only a hint."""
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            with self._writing():
                for chunk, marks in _chunks(keys):
                    self._connection.execute(f"UPDATE entries SET used = ? WHERE key IN ({marks})", (now, *chunk))  # noqa: S608 - marks are question marks
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY:
                raise
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {self._milliseconds}")

    def prune(self, *, max_bytes: int | None = None, created: int | None = None, used: int | None = None) -> int:
        """Drop entries, shrink the file, and return the number dropped.

        Args:
            max_bytes: Maximum size of what is left; None sets no bound.
            created: Drop what was stored at this time or earlier; None drops nothing.
            used: Drop what was last used at this time or earlier; None drops nothing.
        """
        before = self._count()
        with self._writing():
            for column, time in (("created", created), ("used", used)):
                if time is not None:
                    self._delete(f"SELECT id FROM entries WHERE {column} <= ?", (time,))  # noqa: S608 - as above
            if max_bytes is not None:
                self._drop_beyond(max_bytes)
            after = self._count()
        self._shrink_file()
        return before - after

    def clear(self) -> int:
        """Drop everything, shrink the file, and return the number of entries there were."""
        with self._writing():
            count = self._count()
            for table in ("vectors", "entries"):
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a name of this module
        self._shrink_file()
        return count

    def _shrink_file(self) -> None:
        self._connection.execute("VACUUM")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def info(self) -> CacheInfo:
        """Return what the file holds."""
        oldest, newest = self._connection.execute("SELECT min(used), max(used) FROM entries").fetchone()
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        return CacheInfo(
            path=self.path,
            entries=self._count(),
            file_bytes=sum(file.stat().st_size for file in files if file.exists()),
            used_bytes=self.used_bytes,
            oldest=None if oldest is None else oldest / 1000,
            newest=None if newest is None else newest / 1000,
        )

    @property
    def used_bytes(self) -> int:
        """Size of the pages in use."""
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    def close(self) -> None:
        """Close the connection; the last one to close copies the journal into the file."""
        self._connection.close()

    def _drop_beyond(self, max_bytes: int) -> None:
        while self.used_bytes > max_bytes:
            oldest = f"SELECT id FROM entries ORDER BY used, id LIMIT {_DROPPED_AT_ONCE}"  # noqa: S608 - a number of this module
            if not self._delete(oldest):
                self._connection.execute("DELETE FROM vectors")  # vectors without entries, which only a broken disk leaves
                return

    def _delete(self, chosen: str, values: Sequence[object] = ()) -> int:
        ids = self._connection.execute(chosen, values).fetchall()
        for table in ("vectors", "entries"):
            self._connection.executemany(f"DELETE FROM {table} WHERE id = ?", ids)  # noqa: S608 - a name of this module
        return len(ids)

    def _count(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _chunks(keys: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], str]]:
    for start in range(0, len(keys), _CHUNK):
        chunk = keys[start : start + _CHUNK]
        yield chunk, ",".join("?" * len(chunk))
