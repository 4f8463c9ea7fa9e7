"""The persistent cache: vectors in a file that threads and processes share.

No error of the file fails a call: what cannot be read is a miss, and what cannot be written is left out.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._fork import ForkSafeLock
from mlx_qwen_embeddings.cache.codec import Precision, decode, encode
from mlx_qwen_embeddings.cache.memory import CachedVector
from mlx_qwen_embeddings.cache.sqlite_file import ERRORS, CacheFile, explain
from mlx_qwen_embeddings.errors import CacheFileError

READ_SECONDS, WRITE_SECONDS = 0.5, 2.0
"""Longest waits for another process: when reading, for its recovery of a journal; when writing, for its transactions."""

RETRY_SECONDS = 30.0
"""How long the file is not used after a failure, so that not every call waits for it."""

TOUCH_SECONDS, TOUCHED_KEYS = 60.0, 4096
"""Uses are written to the file together, once a minute or after this many hits, because every write costs time."""

FOR_EVER = 1e10
"""A time to live above this, 300 years, counts as none: much longer ones do not fit into SQLite's integers."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class _Connection(ForkSafeLock):
    """A connection that is opened when it is needed; only the thread that holds the lock may use it."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._file: CacheFile | None = None
        super().__init__()

    def open(self) -> CacheFile:
        """Return the open file, a new one if it was deleted."""
        if self._file is not None and not self._file.is_there:
            self.close()
        self._file = self._file or CacheFile(self._path, seconds=self._seconds)
        return self._file

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def before_fork(self) -> None:
        """Close the file: SQLite's connections must not cross a fork."""
        super().before_fork()
        self.close()


class SqliteCache:
    """Vectors in a file, bounded in bytes; safe to share between threads, processes and forks.

    The least recently used ones are dropped first. Readers never wait for writers, because of SQLite's write-ahead log. It
    needs a local disk.
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
        """Prepare a cache; its file is opened, or made, when it is first used.

        Args:
            path: The file. SQLite keeps two more beside it while it is open.
            max_bytes: Maximum size of the file; the journal beside it takes about 16 MiB more.
            ttl: Seconds that a vector is kept; None is for ever.
            precision: Type of stored components, see ``encode``; with float32, entries stored as float16 are misses.
            clock: Returns the time in seconds since 1970.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._ttl = None if ttl is None or ttl > FOR_EVER else ttl
        self._precision: Precision = precision
        self._clock = clock
        # Two, so that a look-up does not wait while a write waits for another process.
        self._reader, self._writer = _Connection(path, READ_SECONDS), _Connection(path, WRITE_SECONDS)
        self._touched: dict[bytes, None] = {}
        self._touched_at = time.monotonic()
        self._read = 0
        self._paused_until = 0.0
        self._warned = self._closed = False

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Look keys up; None stands for a miss."""
        since = None if self._ttl is None else self._now() - round(self._ttl * 1000)
        stored = self._attempt(self._reader, lambda file: file.get(keys, since=since), dict[bytes, object]())
        found = [decode(key, stored[key], self._precision) if key in stored else None for key in keys]
        hits = dict.fromkeys(key for key, entry in zip(keys, found, strict=True) if entry)
        self._touched.update(hits)
        self._read += len(hits)
        if self._read >= TOUCHED_KEYS:
            self.write_uses()
        return found

    def put_many(self, entries: Iterable[tuple[bytes, NDArray[np.float32], int]]) -> None:
        """Store (key, vector, length) triples in one transaction; vectors that are not finite are left out."""
        rows = {
            key: encode(key, vector, length, self._precision)
            for key, vector, length in entries
            if np.isfinite(vector).all()
        }
        self._attempt(self._writer, lambda file: file.put(rows, self._now(), self._max_bytes), None)

    def touch(self, keys: Iterable[bytes]) -> None:
        """Note that entries were used although they were not read from the file; beyond a limit, notes are dropped."""
        if len(self._touched) < TOUCHED_KEYS:
            self._touched.update(dict.fromkeys(keys))
        if self._touched and time.monotonic() - self._touched_at >= TOUCH_SECONDS:
            self.write_uses()

    def write_uses(self) -> None:
        """Write the uses noted so far to the file; when another process is writing, they are dropped."""
        touched, self._touched, self._read = self._touched, {}, 0
        self._touched_at = time.monotonic()
        self._attempt(self._reader, lambda file: file.touch(list(touched), self._now()), None)

    def _now(self) -> int:
        return round(self._clock() * 1000)

    def _attempt(self, connection: _Connection, work: Callable[[CacheFile], Result], default: Result) -> Result:
        if self._closed or time.monotonic() < self._paused_until:
            return default
        with connection:
            if self._closed:
                return default
            try:
                return work(connection.open())
            except (*ERRORS, OSError, CacheFileError) as error:
                connection.close()
                self._paused_until = time.monotonic() + RETRY_SECONDS
                if not self._warned:
                    self._warned = True
                    logger.warning(
                        "the persistent cache is left out: %s. Vectors are computed without it; it is tried again every "
                        "%.0f s. This is logged once.",
                        explain(self._path, error),
                        RETRY_SECONDS,
                    )
                return default

    def close(self) -> None:
        """Close the file; every look-up after that is a miss."""
        if self._touched and not self._closed:
            self.write_uses()
        self._closed = True
        for connection in (self._reader, self._writer):
            with connection:
                connection.close()
