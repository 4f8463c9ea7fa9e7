"""Compare, search, normalise and shorten vectors. Needs only numpy.

Inputs are arrays or lists of real numbers, of shape (d,) or (n, d), and are never changed. Computation is in float64, in
tiles that bound memory. Invalid input (unequal dimensions, NaN, infinity, or a zero vector where a direction is needed)
raises a ``ValueError`` that names the row. Comparing (d,) with (d,) returns a float. Everything else returns a float32
array: (d,) with (m, d) returns (m,), (n, d) with (d,) returns (n,), (n, d) with (m, d) returns (n, m).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Metric: TypeAlias = Literal["cosine", "dot", "euclidean", "manhattan"]
Scores: TypeAlias = Any  # float or array, depending on shapes that types cannot express; a union would burden every caller
Comparison: TypeAlias = Callable[[ArrayLike, ArrayLike], Scores]
Found: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
Rows: TypeAlias = NDArray[np.float64]
Kernel: TypeAlias = Callable[[Rows, Rows], Rows]

# Tiles start at multiples of this, whatever the block size, because BLAS may round differently for other shapes.
_TILE = 256
# The squares of components from 1 / _SQUARABLE to _SQUARABLE are well within the range of float64.
_SQUARABLE = 1e100


def cosine(a: ArrayLike, b: ArrayLike) -> Scores:
    """Return the cosine similarity, within [-1, 1]. Raise ``ValueError`` for a zero vector, which has no direction."""
    return _compare(a, b, "cosine")


def dot(a: ArrayLike, b: ArrayLike) -> Scores:
    """Return the dot product. For unit vectors it equals the cosine and is cheaper."""
    return _compare(a, b, "dot")


def euclidean(a: ArrayLike, b: ArrayLike) -> Scores:
    """Return the Euclidean (L2) distance. It is accurate for nearly equal vectors too."""
    return _compare(a, b, "euclidean")


def manhattan(a: ArrayLike, b: ArrayLike) -> Scores:
    """Return the Manhattan (L1) distance."""
    return _compare(a, b, "manhattan")


METRICS: Mapping[Metric, Comparison] = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "manhattan": manhattan}


def normalize(vectors: ArrayLike) -> NDArray[np.float32]:
    """Scale each vector to L2 length 1. Raise ``ValueError`` for a zero vector."""
    given = _read(vectors, "vectors")
    unit = np.empty(given.matrix.shape, np.float32)
    for part, rows in _tiles(given, range(len(unit)), unit=True):
        unit[part] = rows
    return unit[0] if given.is_vector else unit


def truncate_dimensions(vectors: ArrayLike, dimensions: int) -> NDArray[np.float32]:
    """Keep the first ``dimensions`` components and scale to L2 length 1 again (Matryoshka, arXiv:2205.13147).

    Raises:
        ValueError: If ``dimensions`` is not within 1 to d, or all remaining components are zero.
    """
    check_count(dimensions, "dimensions")
    given = _read(vectors, "vectors")
    if dimensions > given.matrix.shape[1] > 0:
        raise ValueError(f"dimensions={dimensions} is more than the vectors have: choose 1 to {given.matrix.shape[1]}")
    return normalize(given.matrix[0, :dimensions] if given.is_vector else given.matrix[:, :dimensions])


def top_k(
    queries: ArrayLike, documents: ArrayLike, k: int = 10, metric: Metric = "cosine", block_size: int = 8192
) -> Found:
    """Find the ``k`` documents most similar (cosine, dot) or nearest (euclidean, manhattan) to each query.

    Args:
        queries: Shape (d,) or (n, d).
        documents: Shape (m, d); may be a memory map larger than memory.
        k: How many documents to find; all of them if there are fewer.
        metric: How to compare.
        block_size: Documents to rank at once, rounded up to a multiple of 256. Affects memory, not the result.

    Returns:
        Scores and document rows, each (n, k), or (k,) for a single query. Best first; for equal scores, lower rows first.

    Raises:
        ValueError: If an argument is invalid, or a vector is; see the top of this module.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: choose one of {', '.join(METRICS)}")
    check_count(k, "k")
    check_count(block_size, "block_size")
    a, b = _read(queries, "queries"), _read(documents, "documents")
    if b.is_vector:
        raise ValueError(f"documents must have two axes, not shape {b.matrix[0].shape}: pass [vector] for a single one")
    _check_dimensions(a, b)
    shape = (len(a.matrix), min(k, len(b.matrix)))
    scores, indices = np.empty(shape, np.float32), np.empty(shape, np.int64)
    step = -(-max(block_size, k) // _TILE) * _TILE
    for part in _split(range(shape[0]), _TILE):
        found = np.empty((len(part), 0), np.float32), np.empty((len(part), 0), np.int64)
        for block in _split(range(len(b.matrix)), step):
            found = _merge(found, _scores(a, b, part, block, metric=metric), block, k, metric)
        scores[part.start : part.stop], indices[part.start : part.stop] = found
    return (scores[0], indices[0]) if a.is_vector else (scores, indices)


def _merge(found: Found, new: NDArray[np.float32], block: range, k: int, metric: Metric) -> Found:
    """Return the ``k`` best of the scores ``found`` so far and a block's ``new`` ones. The block has the higher rows."""
    scores = np.concatenate([found[0], new], axis=1)
    indices = np.concatenate([found[1], np.broadcast_to(np.arange(block.start, block.stop), new.shape)], axis=1)
    best = np.array([lowest(costs, k) for costs in (-scores if metric in {"cosine", "dot"} else scores)])
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(indices, best, axis=1)


def lowest(costs: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Return the positions of the ``k`` lowest costs, lowest first; for equal costs, the earlier first."""
    if k >= len(costs):
        return np.argsort(costs, kind="stable")
    # A partition keeps arbitrary ones of several equal costs, so use only its threshold.
    candidates = np.flatnonzero(costs <= np.partition(costs, k - 1)[k - 1])
    return candidates[np.argsort(costs[candidates], kind="stable")[:k]]


class _Vectors(NamedTuple):
    name: str
    matrix: NDArray[Any]
    is_vector: bool


def _read(vectors: ArrayLike, name: str) -> _Vectors:
    try:
        array = np.asarray(vectors)
    except ValueError as error:
        raise ValueError(f"{name}: the vectors differ in length; embed all with one model and dimensions=") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, not {array.dtype}: pass vectors, not texts")
    if array.shape == (0,):  # embedding no texts returns an empty list
        return _Vectors(name, array.reshape(0, 0), is_vector=False)
    if array.ndim not in {1, 2} or not array.shape[-1]:
        raise ValueError(f"{name} must have the shape (d,) or (n, d) with d > 0, not {array.shape}")
    return _Vectors(name, np.atleast_2d(array), is_vector=array.ndim == 1)


def check_count(value: object, name: str) -> None:
    """Raise ``ValueError`` for anything but an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")


def _check_dimensions(a: _Vectors, b: _Vectors) -> None:
    have, other = a.matrix.shape[1], b.matrix.shape[1]
    if have != other and have and other:
        raise ValueError(
            f"{a.name}: {have} dimensions, {b.name}: {other}. Embed both with the same model and the same dimensions=; "
            f"if one model made both, truncate_dimensions(vectors, {min(have, other)}) shortens the longer ones"
        )


def _compare(a: ArrayLike, b: ArrayLike, metric: Metric) -> Scores:
    left, right = _read(a, "a"), _read(b, "b")
    _check_dimensions(left, right)
    dtype = np.float64 if left.is_vector and right.is_vector else np.float32
    scores = _scores(left, right, range(len(left.matrix)), range(len(right.matrix)), metric=metric, dtype=dtype)
    scores = scores[0] if left.is_vector else scores
    scores = scores[..., 0] if right.is_vector else scores
    return scores if scores.ndim else float(scores)


def _scores(
    a: _Vectors, b: _Vectors, rows: range, columns: range, *, metric: Metric, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    scores = np.empty((len(rows), len(columns)), dtype)
    for i, left in _tiles(a, rows, unit=metric == "cosine"):
        for j, right in _tiles(b, columns, unit=metric == "cosine"):
            with np.errstate(over="ignore", invalid="ignore"):
                scores[i, j] = _KERNELS[metric](left, right)
            if not np.isfinite(scores[i, j]).all():
                raise ValueError(
                    f"{a.name} and {b.name} hold numbers too large for the metric {metric!r}: normalize() them"
                )
    return scores


def _split(rows: range, size: int) -> Iterator[range]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _tiles(vectors: _Vectors, part: range, *, unit: bool) -> Iterator[tuple[slice, Rows]]:
    """Yield each tile's position in ``part`` and a checked float64 copy of its vectors, scaled to length 1 if ``unit``."""
    for tile in _split(part, _TILE):
        rows = np.array(vectors.matrix[tile.start : tile.stop], dtype=np.float64)
        peak = np.abs(rows).max(axis=1)
        wrong = ~np.isfinite(peak) | (unit & (peak == 0))
        if wrong.any():
            row = int(wrong.argmax())
            what = "a zero vector, which has no direction" if peak[row] == 0 else "not finite (NaN or infinity)"
            raise ValueError(f"row {tile.start + row} of {vectors.name} is {what}: leave it out or embed it again")
        if unit:
            extreme = (peak < 1 / _SQUARABLE) | (peak > _SQUARABLE)
            rows[extreme] /= peak[extreme, None]
            rows *= (1.0 / np.sqrt(np.einsum("ij,ij->i", rows, rows)))[:, None]
        yield slice(tile.start - part.start, tile.stop - part.start), rows


def _cosine(a: Rows, b: Rows) -> Rows:
    return np.clip(a @ b.T, -1.0, 1.0)


def _euclidean(a: Rows, b: Rows) -> Rows:
    sizes = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
    squares: Rows = sizes - 2.0 * (a @ b.T)
    close = squares < 1e-4 * sizes  # here the subtraction cancelled too many digits
    for row in close.any(axis=1).nonzero()[0]:
        squares[row, close[row]] = np.square(b[close[row]] - a[row]).sum(axis=1)
    return np.sqrt(squares)


def _manhattan(a: Rows, b: Rows) -> Rows:
    if len(a) > len(b):
        return _manhattan(b, a).T
    return np.array([np.abs(b - row).sum(axis=1) for row in a])


_KERNELS: dict[Metric, Kernel] = {"cosine": _cosine, "dot": np.inner, "euclidean": _euclidean, "manhattan": _manhattan}
