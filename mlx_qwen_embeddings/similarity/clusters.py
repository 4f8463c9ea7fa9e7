"""What a set of vectors holds: groups with the texts at their centre, and texts that say nearly the same."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings._html import facts_table
from mlx_qwen_embeddings.similarity.compare import cosine, normalize

_BLOCK = 1024
"""Rows that are compared with all later ones at once."""

_SHOWN = 10
"""Groups that have a line of their own in a notebook."""


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Groups of vectors.

    Attributes:
        labels: Number of each vector's group, 0 to k - 1, the largest group first; shape (n,).
        central: For each group the rows nearest to its centre, the nearest first.
        centers: Unit vector in the middle of each group; shape (k, d).
    """

    labels: NDArray[np.int64]
    central: tuple[NDArray[np.int64], ...]
    centers: NDArray[np.float32]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Vectors in each group."""
        return tuple(np.bincount(self.labels, minlength=len(self.centers)).tolist())

    def _repr_html_(self) -> str:
        sizes, central = self.sizes, [", ".join(map(str, rows.tolist())) for rows in self.central]
        facts = {f"group {n}": f"{sizes[n]:,}, central rows {central[n]}" for n in range(min(len(sizes), _SHOWN))}
        rest = sizes[_SHOWN:]
        facts |= {f"{len(rest):,} more": f"{sum(rest):,}"} if rest else {}
        return facts_table(f"{len(sizes):,} groups of {len(self.labels):,} vectors", facts)


class Pair(NamedTuple):
    """Two rows, the lower one first, and their cosine."""

    first: int
    second: int
    score: float


def cluster(vectors: ArrayLike, k: int, *, central: int = 3, seed: int = 0) -> Clusters:
    """Part vectors into ``k`` groups of like direction: k-means of scikit-learn (extra ``notebooks``) over unit vectors.

    Args:
        vectors: Shape (n, d), of any length but 0.
        k: Number of groups, 1 to n.
        central: How many of the most central rows to name for each group; a smaller group names all of its own.
        seed: Of the start; the same one gives the same groups.

    Raises:
        MissingExtraError: When scikit-learn is not installed.
        ValueError: For a ``k`` outside 1 to n, more groups than there are different vectors, or vectors without a
            direction.
    """
    unit = _unit(vectors)
    if not 1 <= k <= len(unit):
        message = f"k={k} groups of {len(unit)} vectors: choose 1 to {len(unit)}"
        raise ValueError(message)
    different = len(np.unique(unit, axis=0))
    if k > different:
        message = f"k={k} groups, but only {different} of the vectors differ: choose 1 to {different}"
        raise ValueError(message)
    kmeans: Any = require("sklearn.cluster", "notebooks", "cluster").KMeans
    with one_thread():
        found = kmeans(n_clusters=k, n_init=4, random_state=seed).fit_predict(unit)
    # By size, and by first row among equals, so that numbers say something and stay.
    numbers, first, counts = np.unique(found, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    labels = np.argsort(order)[np.searchsorted(numbers, found)].astype(np.int64)
    groups = [np.flatnonzero(labels == number) for number in range(len(numbers))]
    centers = np.stack([unit[rows].mean(axis=0) for rows in groups])
    nearest = [rows[np.argsort(-(unit[rows] @ at), kind="stable")] for rows, at in zip(groups, centers, strict=True)]
    return Clusters(labels, tuple(rows[:central] for rows in nearest), normalize(centers))


def near_duplicates(vectors: ArrayLike, threshold: float = 0.95) -> list[Pair]:
    """Give all pairs of rows whose cosine is at least ``threshold``, the closest first.

    Takes time in proportion to n², in memory that the pairs found and 1,024 rows against all bound.

    Args:
        vectors: Shape (n, d).
        threshold: Least cosine, -1 to 1. What counts as the same depends on the model: look at a few pairs.

    Raises:
        ValueError: For another threshold, or vectors without a direction.
    """
    if not -1 <= threshold <= 1:
        message = f"threshold={threshold} is no cosine: choose -1 to 1, such as 0.95"
        raise ValueError(message)
    return sorted(_pairs(_unit(vectors), threshold), key=lambda pair: (-pair.score, pair.first, pair.second))


def one_thread() -> AbstractContextManager[Any]:
    """Let scikit-learn compute on one thread: those of the OpenMP that MKL brings spin for each other, 15 times slower."""
    limits: Any = require("threadpoolctl", "notebooks", "scikit-learn").threadpool_limits
    limited: AbstractContextManager[Any] = limits(1, user_api="openmp")
    return limited


def _pairs(unit: NDArray[np.float32], threshold: float) -> Iterator[Pair]:
    for start in range(0, len(unit), _BLOCK):
        scores = cosine(unit[start : start + _BLOCK], unit[start:])
        rows, columns = np.nonzero(scores >= threshold)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if column > row:
                yield Pair(start + row, start + column, float(scores[row, column]))


def _unit(vectors: ArrayLike) -> NDArray[np.float32]:
    unit = normalize(vectors)
    if unit.ndim == 1:
        message = "vectors must have the shape (n, d): one vector makes no group"
        raise ValueError(message)
    return unit
