"""Keys and vectors made from a number, so that every process knows what a cache must return."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mlx_qwen_embeddings.cache.memory import CachedVector
from mlx_qwen_embeddings.cache.sqlite import SqliteCache

WIDTH = 32
Array = np.ndarray[Any, np.dtype[np.float32]]


def key(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=20).digest()


def vector(number: int, width: int = WIDTH) -> Array:
    return np.random.default_rng(number).standard_normal(width, dtype=np.float32)


def row(number: int, width: int = WIDTH) -> tuple[bytes, Array, int]:
    return key(number), vector(number, width), number


def is_right(number: int, found: CachedVector) -> bool:
    return found.length == number and found.vector.tobytes() == vector(number, len(found.vector)).tobytes()


def make(path: Path, **options: Any) -> SqliteCache:
    return SqliteCache(path, **{"max_bytes": 2**30} | options)


def there(cache: SqliteCache, numbers: range | list[int]) -> list[int]:
    """Return the numbers that are cached; raise when a vector is wrong."""
    found = dict(zip(numbers, cache.get_many([key(number) for number in numbers]), strict=True))
    assert [number for number, entry in found.items() if entry and not is_right(number, entry)] == []
    return [number for number, entry in found.items() if entry]
