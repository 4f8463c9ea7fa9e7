"""Vectors that were computed before: the key that tells them apart, and a bounded store in memory."""

import hashlib
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._fork import ForkSafeLock

KEY_VERSION = 1
"""Raised when the meaning of a stored vector changes, so that old ones are never read."""


class CachedVector(NamedTuple):
    """What is stored for a text.

    Attributes:
        vector: Pooled vector at full length, before normalisation; float32, shape (d,), read-only.
        length: The text's tokens before any cut, prompt included: tells whether it was truncated.
    """

    vector: NDArray[np.float32]
    length: int


class CacheKeys:
    """Makes the keys of one combination of everything but the text."""

    def __init__(self, *, model: str, dtype: str, **options: Any) -> None:
        """Fix everything that a vector depends on except its text.

        Args:
            model: Fingerprint of the model's content and revision.
            dtype: Device and compute type.
            **options: What the model computes with: the prompt as it is put before the text, and so on.
        """
        fields = {"version": KEY_VERSION, "model": model, "dtype": dtype, **options}
        # JSON is unambiguous, and the text comes last, behind a byte that UTF-8 never contains.
        self._start = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode() + b"\xff", digest_size=20)

    def __call__(self, text: str) -> bytes:
        """Give the key of a text, 20 bytes."""
        state = self._start.copy()
        state.update(text.encode())
        return state.digest()


class VectorCache(Protocol):
    """What an engine keeps vectors in; safe to share between threads."""

    @property
    def blocks(self) -> bool:
        """Whether a look-up may wait for a disk, or for another process: an event loop must not wait for it."""
        ...

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Look keys up; None stands for a miss."""
        ...

    def put_many(self, entries: Iterable[tuple[bytes, NDArray[np.float32], int]]) -> None:
        """Store (key, vector, length) triples."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...

    def __len__(self) -> int:
        """Vectors held in memory."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory in use, in bytes."""
        ...


class MemoryCache:
    """Least-recently-used vectors, bounded in bytes, with an optional time to live; safe to share between threads."""

    blocks = False

    def __init__(self, max_bytes: int, *, ttl: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Make an empty cache.

        Args:
            max_bytes: Bound on keys, vectors and their bookkeeping, in bytes.
            ttl: Seconds that a vector lives; None is for ever.
            clock: Where the time comes from.
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
        """Store (key, vector, length) triples; the vectors are copied, non-finite ones are left out."""
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
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def close(self) -> None:
        """Free the memory."""
        self.clear()

    def __len__(self) -> int:
        """Number of vectors held."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes in use, bookkeeping included."""
        return self._bytes


_DICT_SLOT = 200
"""Bytes that an OrderedDict entry and its tuples cost, measured with tracemalloc on CPython 3.11."""


def _entry_bytes(key: bytes, entry: CachedVector) -> int:
    return entry.vector.nbytes + sys.getsizeof(key) + _DICT_SLOT + 112
