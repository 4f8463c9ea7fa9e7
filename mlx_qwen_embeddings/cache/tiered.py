"""Memory in front of the persistent file, and the choice of cache that settings ask for."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.cache.memory import CachedVector, MemoryCache, VectorCache
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.stats import StatsCounter

if TYPE_CHECKING:
    from mlx_qwen_embeddings.cache.sqlite import SqliteCache


class TieredCache:
    """Looks in memory first, then in the file; writes to both."""

    blocks = True

    def __init__(self, memory: MemoryCache, file: "SqliteCache", stats: StatsCounter, *, promote: bool) -> None:
        """Combine the two.

        Args:
            memory: Asked first.
            file: Asked for what memory lacks.
            stats: Counts the hits of the file.
            promote: Whether hits of the file are kept in memory. Not with a time to live, which would start again.
        """
        self._memory = memory
        self._file = file
        self._stats = stats
        self._promote = promote

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Look keys up; None stands for a miss."""
        found = self._memory.get_many(keys)
        self._file.touch(key for key, entry in zip(keys, found, strict=True) if entry)
        missing = [place for place, entry in enumerate(found) if entry is None]
        if not missing:
            return found
        stored = self._file.get_many([keys[place] for place in missing])
        hits = {place: entry for place, entry in zip(missing, stored, strict=True) if entry}
        for place, entry in hits.items():
            found[place] = entry
        if hits:
            self._stats.add(persistent_hits=len(hits))
        if self._promote:
            self._memory.put_many((keys[place], *entry) for place, entry in hits.items())
        return found

    def put_many(self, entries: Iterable[tuple[bytes, NDArray[np.float32], int]]) -> None:
        """Store (key, vector, length) triples in both."""
        rows = list(entries)
        self._memory.put_many(rows)
        self._file.put_many(rows)

    def clear(self) -> None:
        """Drop what is in memory."""
        self._memory.clear()

    def close(self) -> None:
        """Free the memory and close the file, which stays on the disk."""
        self._memory.close()
        self._file.close()

    def __len__(self) -> int:
        """Return the number of vectors in memory."""
        return len(self._memory)

    @property
    def nbytes(self) -> int:
        """Memory in use, in bytes."""
        return self._memory.nbytes


def make_cache(settings: EngineSettings, stats: StatsCounter) -> VectorCache:
    """Return the cache that settings ask for. Its file is opened when it is first used."""
    memory = MemoryCache(settings.cache_bytes, ttl=settings.cache_ttl)
    if settings.cache_path is None:
        return memory
    from mlx_qwen_embeddings.cache.sqlite import SqliteCache  # noqa: PLC0415 - some builds of Python lack sqlite3

    file = SqliteCache(
        settings.cache_path,
        max_bytes=settings.cache_path_bytes,
        ttl=settings.cache_ttl,
        precision=settings.cache_precision,
    )
    return TieredCache(memory, file, stats, promote=settings.cache_ttl is None)
