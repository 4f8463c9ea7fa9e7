"""Memory in front of the persistent file, and the choice of cache that settings ask for."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.cache.memory import CachedVector, MemoryCache
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.stats import StatsCounter

if TYPE_CHECKING:
    from mlx_qwen_embeddings.cache.sqlite import SqliteCache


class TieredCache(MemoryCache):
    """A cache in memory that looks in a file for what it lacks, and writes to both."""

    blocks = True

    def __init__(self, max_bytes: int, file: "SqliteCache", stats: StatsCounter, *, ttl: float | None = None) -> None:
        """Put an empty cache in memory in front of a file.

        Args:
            max_bytes: Maximum size in memory.
            file: Asked for what memory lacks.
            stats: Counts the hits of the file.
            ttl: Seconds that a vector is kept in memory; None is for ever.
        """
        super().__init__(max_bytes, ttl=ttl)
        self._file = file
        self._stats = stats

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Look keys up; None stands for a miss."""
        found = super().get_many(keys)
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
        if self._ttl is None:  # otherwise their time to live would start again
            super().put_many((keys[place], *entry) for place, entry in hits.items())
        return found

    def put_many(self, entries: Iterable[tuple[bytes, NDArray[np.float32], int]]) -> None:
        """Store (key, vector, length) triples in both."""
        rows = list(entries)
        super().put_many(rows)
        self._file.put_many(rows)

    def close(self) -> None:
        """Free the memory and close the file, which stays on the disk."""
        super().close()
        self._file.close()


def make_cache(settings: EngineSettings, stats: StatsCounter) -> MemoryCache:
    """Return the cache that settings ask for. Its file is opened when it is first used."""
    if settings.cache_path is None:
        return MemoryCache(settings.cache_bytes, ttl=settings.cache_ttl)
    from mlx_qwen_embeddings.cache.sqlite import SqliteCache  # noqa: PLC0415 - some builds of Python lack sqlite3

    file = SqliteCache(
        settings.cache_path,
        max_bytes=settings.cache_path_bytes,
        ttl=settings.cache_ttl,
        precision=settings.cache_precision,
    )
    return TieredCache(settings.cache_bytes, file, stats, ttl=settings.cache_ttl)
