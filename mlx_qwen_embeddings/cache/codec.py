"""Encode a cached vector as bytes with a checksum: one that the disk changed is a miss, never a wrong vector."""

import hashlib
import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.cache.memory import CachedVector

Precision = Literal["float32", "float16"]

_CHECK = 16
_HEAD = struct.Struct("<cQ")  # type of the components, length of the text
_TYPES: dict[bytes, str] = {b"4": "<f4", b"2": "<f2"}


def encode(key: bytes, vector: NDArray[np.float32], length: int, precision: Precision) -> bytes:
    """Encode a vector, preceded by a checksum of its key and content.

    float16 halves the size. Rounding to nearest then changes a component x by at most 2^-11 |x|, or by 2^-25 where |x| is
    below 2^-14 (IEEE 754 binary16). A vector with a component beyond its range, 65504, stays float32.

    Args:
        key: The key that it is stored under.
        vector: Finite, shape (d,).
        length: Tokens of the text.
        precision: Type of the stored components.
    """
    kind = b"2" if precision == "float16" and np.abs(vector).max(initial=0) <= np.finfo(np.float16).max else b"4"
    content = _HEAD.pack(kind, length) + vector.astype(_TYPES[kind]).tobytes()
    return _checksum(key, content) + content


def decode(key: bytes, data: object, precision: Precision) -> CachedVector | None:
    """Decode what ``encode`` returned.

    Args:
        key: The key that was looked up.
        data: What the file held: anything, since the file may be broken.
        precision: What the caller wants. For float32, a vector that was rounded to float16 is a miss.

    Returns:
        None for a miss: the data is not what was stored under this key, or was rounded too much.
    """
    if not isinstance(data, bytes) or len(data) < _CHECK + _HEAD.size:
        return None
    content = data[_CHECK:]
    if data[:_CHECK] != _checksum(key, content):
        return None
    kind, length = _HEAD.unpack_from(content)
    if kind == b"2" and precision == "float32":
        return None
    return CachedVector(np.frombuffer(content, _TYPES[kind], offset=_HEAD.size).astype(np.float32), length)


def _checksum(key: bytes, content: bytes) -> bytes:
    # All keys have the same length, so key and content cannot run together.
    return hashlib.blake2b(key + content, digest_size=_CHECK).digest()
