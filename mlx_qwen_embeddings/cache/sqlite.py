"""Vectors that outlive the process: a cache in a file that many threads and processes share.

Nothing that happens to the file fails a call: what cannot be read is a miss, what cannot be written is left out.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._fork import Forkable, Stage, let_go, protect
from mlx_qwen_embeddings.cache.codec import Precision, decode, encode
from mlx_qwen_embeddings.cache.memory import CachedVector
from mlx_qwen_embeddings.cache.sqlite_file import CacheFile, describe
from mlx_qwen_embeddings.errors import CacheFileError

READ_SECONDS, WRITE_SECONDS = 0.5, 2.0
"""Longest waits for another process. Reading waits only for its recovery of a journal, writing for its transactions."""

RETRY_SECONDS = 30.0
"""How long the file is left alone after a failure, so that not every call waits for it."""

TOUCH_SECONDS, TOUCHED_KEYS = 60.0, 4096
"""Uses are noted in the file once a minute, or when so many entries were read from it: a hit alone writes nothing."""

FOR_EVER = 1e10
"""Seconds of a time to live that is none: 300 years, of which milliseconds still fit into SQLite's numbers."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class _Door:
    """A connection that is opened when it is needed, and used by one thread at a time."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.lock = threading.RLock()
        self._path = path
        self._seconds = seconds
        self._file: CacheFile | None = None

    def open(self) -> CacheFile:
        """Give the connection, a new one if the file was deleted."""
        if self._file is not None and not self._file.is_there:
            self.close()
        self._file = self._file or CacheFile(self._path, seconds=self._seconds)
        return self._file

    def close(self) -> None:
        """Close it; the next use opens a new one."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class SqliteCache(Forkable):
    """Least-recently-used vectors in a file, bounded in bytes; safe to share between threads, processes and forks.

    Readers never wait for writers (SQLite's write-ahead log), so the file has to lie on a local disk.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        ttl: float | None = None,
        precision: Precision = "float32",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; the file is opened, or made, by the first use.

        Args:
            path: The file. SQLite keeps two more beside it while it is open.
            max_bytes: Bound on its size, in bytes; the journal beside it takes some 16 MiB more.
            ttl: Seconds that a vector lives; None is for ever.
            precision: How components are stored, see ``encode``; with float32, rounded entries of others are misses.
            clock: Where the time comes from, in seconds since 1970.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._ttl = None if ttl is None or ttl > FOR_EVER else ttl
        self._precision: Precision = precision
        self._clock = clock
        # Apart, so that no look-up waits while a write waits for another process.
        self._reader, self._writer = _Door(path, READ_SECONDS), _Door(path, WRITE_SECONDS)
        self._touched: dict[bytes, None] = {}
        self._touched_at = time.monotonic()
        self._read = 0
        self._left_until = 0.0
        self._told = self._closed = False
        protect(self, Stage.LOCKING)

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Look keys up; None stands for a miss."""
        since = None if self._ttl is None else self._now() - round(self._ttl * 1000)
        nothing: dict[bytes, object] = {}
        stored = self._attempt(self._reader, lambda file: file.get(keys, since=since), nothing)
        found = [decode(key, stored[key], self._precision) if key in stored else None for key in keys]
        hits = dict.fromkeys(key for key, entry in zip(keys, found, strict=True) if entry)
        self._touched.update(hits)
        self._read += len(hits)
        if self._read >= TOUCHED_KEYS:
            self.write_uses()
        return found

    def put_many(self, entries: Iterable[tuple[bytes, NDArray[np.float32], int]]) -> None:
        """Store (key, vector, length) triples in one transaction; non-finite vectors are left out."""
        rows = {
            key: encode(key, vector, length, self._precision)
            for key, vector, length in entries
            if np.isfinite(vector).all()
        }
        self._attempt(self._writer, lambda file: file.put(rows, self._now(), self._max_bytes), None)

    def touch(self, keys: Iterable[bytes]) -> None:
        """Note that entries were used, though not read from here, as far as there is room for notes."""
        if len(self._touched) < TOUCHED_KEYS:
            self._touched.update(dict.fromkeys(keys))
        if self._touched and time.monotonic() - self._touched_at >= TOUCH_SECONDS:
            self.write_uses()

    def write_uses(self) -> None:
        """Bring the uses noted so far into the file; those that another process is in the way of are dropped."""
        touched, self._touched, self._read = self._touched, {}, 0
        self._touched_at = time.monotonic()
        self._attempt(self._reader, lambda file: file.touch(list(touched), self._now()), None)

    def _now(self) -> int:
        return round(self._clock() * 1000)

    def _attempt(self, door: _Door, work: Callable[[CacheFile], Result], otherwise: Result) -> Result:
        if self._closed or time.monotonic() < self._left_until:
            return otherwise
        with door.lock:
            if self._closed:
                return otherwise
            try:
                return work(door.open())
            except (sqlite3.Error, OSError, CacheFileError) as error:
                door.close()
                self._leave(error)
                return otherwise

    def _leave(self, error: Exception) -> None:
        self._left_until = time.monotonic() + RETRY_SECONDS
        if not self._told:
            self._told = True
            logger.warning(
                "the persistent cache is left out: %s. Vectors are computed without it; it is tried again every %.0f s. "
                "Said once.",
                describe(self._path, error),
                RETRY_SECONDS,
            )

    def close(self) -> None:
        """Close the file; what is asked from now on is a miss."""
        if self._touched and not self._closed:
            self.write_uses()
        self._closed = True
        for door in (self._reader, self._writer):
            with door.lock:
                door.close()

    def before_fork(self) -> None:
        """Close the connections: SQLite's must not cross a fork."""
        for door in (self._reader, self._writer):
            door.lock.acquire()
            door.close()

    def after_fork_in_parent(self) -> None:
        """Let the next use open new ones."""
        for door in (self._writer, self._reader):
            let_go(door.lock)

    def after_fork_in_child(self) -> None:
        """Take fresh locks."""
        for door in (self._reader, self._writer):
            door.lock = threading.RLock()
