"""The keys of cached vectors, and the cache in memory."""

import hashlib
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._fork import ForkSafeLock

KEY_VERSION = 1
"""Raised when the meaning of a stored vector changes, so that old ones are never read."""


class CachedVector(NamedTuple):
    """What is stored for a text.

    Attributes:
        vector: Pooled vector of full width, before normalisation; float32, shape (d,), read-only.
        length: Tokens of the text with its prompt, before truncation: tells whether it was truncated.
    """

    vector: NDArray[np.float32]
    length: int


class CacheKeys:
    """The keys of texts, for one model and one set of options."""

    def __init__(self, *, model: str, dtype: str, **options: Any) -> None:
        """Set everything that a vector depends on except its text.

        Args:
            model: Fingerprint of the model's content and revision.
            dtype: Device and compute type.
            **options: What the vector is computed with: the prompt as it is put before the text, and so on.
        """
        fields = {"version": KEY_VERSION, "model": model, "dtype": dtype, **options}
        self._start = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=20)

    def __call__(self, text: str | bytes) -> bytes:
        """Return the key of a text, or of the bytes of an array of token ids: 20 bytes."""
        state = self._start.copy()
        # JSON is unambiguous, and a byte that UTF-8 never contains ends it and tells text and ids apart.
        state.update(b"\xff" + text.encode() if isinstance(text, str) else b"\xfe" + text)
        return state.digest()


class MemoryCache:
    """Vectors in memory, bounded in bytes, with an optional time to live; safe to share between threads.

    The least recently used ones are dropped first.
    """

    blocks = False
    """Whether a look-up may wait for a disk or another process, so that an event loop must not call it."""

    def __init__(self, max_bytes: int, *, ttl: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Make an empty cache.

        Args:
            max_bytes: Maximum size of keys, vectors and their bookkeeping.
            ttl: Seconds that a vector is kept; None is for ever.
            clock: Returns the time in seconds.
        """
        self.max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[CachedVector, float]] = OrderedDict()
        self._bytes = 0
        self._lock = ForkSafeLock()

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Look keys up; None stands for a miss."""
        with self._lock:
            now = self._clock()
            return [self._get(key, now) for key in keys]

    def put_many(self, entries: Iterable[tuple[bytes, NDArray[np.float32], int]]) -> None:
        """Store (key, vector, length) triples. Vectors are copied; those that are not finite are left out."""
        with self._lock:
            expires = self._clock() + self._ttl if self._ttl else float("inf")
            for key, vector, length in entries:
                if np.isfinite(vector).all():
                    self._put(key, vector, length, expires)

    def _get(self, key: bytes, now: float) -> CachedVector | None:
        found = self._entries.get(key)
        if found is None:
            return None
        entry, expires = found
        if now >= expires:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def _put(self, key: bytes, vector: NDArray[np.float32], length: int, expires: float) -> None:
        if key in self._entries:
            self._drop(key)
        copy = np.array(vector, dtype=np.float32)
        copy.flags.writeable = False
        entry = CachedVector(copy, length)
        size = _entry_bytes(key, entry)
        if size > self.max_bytes:
            return
        self._entries[key] = (entry, expires)
        self._bytes += size
        while self._bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        entry, _ = self._entries.pop(key)
        self._bytes -= _entry_bytes(key, entry)

    def clear(self) -> None:
        """Drop every vector."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def close(self) -> None:
        """Drop every vector; nothing else has to be released."""
        self.clear()

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes in use, bookkeeping included."""
        return self._bytes


def _entry_bytes(key: bytes, entry: CachedVector) -> int:
    # 312 bytes take an array's head, a place in an OrderedDict and its tuples: measured with tracemalloc on CPython 3.11.
    return entry.vector.nbytes + sys.getsizeof(key) + 312
