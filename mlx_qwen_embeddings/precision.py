"""Store vectors in fewer bits: float16, 8-bit integers, or one bit per component. Needs only numpy.

The arithmetic is that of ``quantize_embeddings`` in sentence-transformers, so each library can read the other's vectors.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings.options import PRECISIONS, Precision

_STEPS = 255
_SPREAD = 6.0
"""How many standard deviations ``unit_ranges`` covers on either side of zero."""


def quantize(vectors: ArrayLike, precision: Precision, ranges: ArrayLike | None = None) -> NDArray[Any]:
    """Convert vectors to ``precision``.

    Args:
        vectors: Real numbers, shape (d,) or (n, d).
        precision: "float32" and "float16" round. "int8" and "uint8" divide each dimension's range into 256 steps. "binary"
            (int8) and "ubinary" (uint8) keep only the sign, eight components per byte, the first in the highest bit.
        ranges: Lowest and highest value of each dimension, shape (2, d), for "int8" and "uint8". Values outside are
            clipped. None takes the ranges of ``vectors``, so that only vectors from the same call can be compared.

    Returns:
        Shape (d,) or (n, d), with (d + 7) // 8 columns for "binary" and "ubinary".

    Raises:
        ValueError: If the precision is unknown, the vectors hold NaN or infinity, are already quantised or are too large
            for float16, or the ranges do not fit or cannot be taken from a single vector.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    values = _read(vectors)
    if precision in {"int8", "uint8"}:
        bounds = value_ranges(values) if ranges is None and values.size else ranges
        values = values if bounds is None else _buckets(values, bounds)
    return _KINDS[precision](values)


def restore(
    values: ArrayLike, precision: Precision, *, dimensions: int | None = None, ranges: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Convert quantised vectors back to real numbers, approximately.

    Args:
        values: What ``quantize`` returned.
        precision: The precision that ``quantize`` was given.
        dimensions: Number of components, which removes the padding bits of "binary" and "ubinary"; None keeps all bits.
        ranges: The ranges that ``quantize`` was given, for "int8" and "uint8"; None takes ``unit_ranges``, as the engine
            does.

    Returns:
        float32 numbers: for integers the middle of each step, for bits 1 or -1.
    """
    array = np.asarray(values)
    if precision in {"binary", "ubinary"}:
        packed = array.view(np.uint8) ^ np.uint8(128) if precision == "binary" else array
        bits = np.unpackbits(packed, axis=-1, count=dimensions)
        return bits.astype(np.float32) * 2 - 1
    if precision in {"int8", "uint8"}:
        low, high = np.asarray(unit_ranges(array.shape[-1]) if ranges is None else ranges, dtype=np.float32)
        buckets = array.astype(np.float32) + (128.5 if precision == "int8" else 0.5)
        array = low + buckets * ((high - low) / _STEPS)
    return np.asarray(array, dtype=np.float32)


def value_ranges(vectors: ArrayLike) -> NDArray[np.float32]:
    """Return the lowest and highest value of each dimension, shape (2, d). Use vectors of a few thousand of your own texts.

    Raises:
        ValueError: If there are fewer than two vectors.
    """
    values = _read(vectors)
    if values.ndim == 1 or len(values) < 2:  # noqa: PLR2004 - a range has two ends
        raise ValueError("int8 and uint8 need the range of each dimension, which one vector does not have: pass ranges=")
    return np.stack([values.min(axis=0), values.max(axis=0)])


def unit_ranges(dimensions: int) -> NDArray[np.float32]:
    """Return fixed ranges for unit vectors, shape (2, d), so that vectors of different calls can be compared.

    A component of a random unit vector has the standard deviation 1 / sqrt(d). The ranges cover six of them on either side
    of zero, in steps of a 127th of that. An "int8" value is the number of steps, so cosines and dot products can be
    computed from it directly; a "uint8" value is 128 more. Ranges taken from your own texts have a finer resolution.
    """
    step = min(1.0, _SPREAD / float(np.sqrt(dimensions))) / 127
    # quantize() rounds down. Starting half a step below -128 turns that into rounding to the nearest.
    return np.array([[-128.5 * step] * dimensions, [126.5 * step] * dimensions], dtype=np.float32)


def save_ranges(path: str | Path, ranges: ArrayLike) -> None:
    """Write ranges as JSON. Keep the file with the vectors: vectors quantised later need the same ranges."""
    lowest, highest = np.asarray(ranges, dtype=np.float32).tolist()
    Path(path).write_text(json.dumps({"lowest": lowest, "highest": highest}), "utf-8")


def load_ranges(path: str | Path) -> NDArray[np.float32]:
    """Return the ranges that ``save_ranges`` wrote, shape (2, d).

    Raises:
        ValueError: If the file holds anything else; the message names it.
    """
    try:
        saved = json.loads(Path(path).read_text("utf-8"))
        return np.array([saved["lowest"], saved["highest"]], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no ranges: save_ranges(path, value_ranges(vectors)) writes them ({error!r})"
        ) from error


def _read(vectors: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(vectors)
    if array.dtype.kind != "f":
        raise ValueError(f"vectors must hold floating-point numbers, not {array.dtype}: are they quantised already?")
    if array.ndim not in {1, 2}:
        raise ValueError(f"vectors must have the shape (d,) or (n, d), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("vectors hold NaN or infinity: embed those texts again")
    return array.astype(np.float32, copy=False)


def _buckets(values: NDArray[np.float32], ranges: ArrayLike) -> NDArray[np.float32]:
    bounds = np.asarray(ranges, dtype=np.float32)
    if bounds.shape != (2, values.shape[-1]) or not np.all(bounds[0] <= bounds[1]):
        raise ValueError(
            f"ranges must be the lowest and the highest value of each of the {values.shape[-1]} dimensions, shape "
            f"(2, {values.shape[-1]}), got shape {bounds.shape}"
        )
    steps = (bounds[1] - bounds[0]) / _STEPS
    steps = np.where(steps == 0, 1, steps)
    buckets: NDArray[np.float32] = np.clip(np.floor((values - bounds[0]) / steps), 0, _STEPS)
    return buckets


def _float16(values: NDArray[np.float32]) -> NDArray[Any]:
    if np.any(np.abs(values) > np.finfo(np.float16).max):
        raise ValueError(
            f"float16 ends at {np.finfo(np.float16).max}, and a component is larger: normalise the vectors first"
        )
    return values.astype(np.float16)


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.packbits(values > 0, axis=-1)


_KINDS: Mapping[Precision, Callable[[NDArray[np.float32]], NDArray[Any]]] = {
    "float32": lambda values: values,
    "float16": _float16,
    "int8": lambda buckets: (buckets - 128).astype(np.int8),
    "uint8": lambda buckets: buckets.astype(np.uint8),
    "binary": lambda values: (_bits(values).astype(np.int16) - 128).astype(np.int8),
    "ubinary": _bits,
}
