"""Find groups in a set of vectors, and pairs that are nearly the same."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings._html import NotebookTable, Table
from mlx_qwen_embeddings.similarity.compare import cosine, normalize

_BLOCK = 1024
"""Rows to compare with all later rows at a time."""

_SHOWN = 10
"""Groups that a notebook lists one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Clusters(NotebookTable):
    """Groups of vectors.

    Attributes:
        labels: Group of each vector, 0 to k - 1, shape (n,). Group 0 is the largest.
        central: For each group, the rows nearest to its centre, nearest first.
        centers: Mean of each group as a unit vector, shape (k, d).
    """

    labels: NDArray[np.int64]
    central: tuple[NDArray[np.int64], ...]
    centers: NDArray[np.float32]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of vectors in each group."""
        return tuple(np.bincount(self.labels, minlength=len(self.centers)).tolist())

    def _table(self) -> Table:
        sizes, central = self.sizes, [", ".join(map(str, rows.tolist())) for rows in self.central]
        facts = {f"group {n}": f"{sizes[n]:,}, central rows {central[n]}" for n in range(min(len(sizes), _SHOWN))}
        rest = sizes[_SHOWN:]
        facts |= {f"{len(rest):,} more": f"{sum(rest):,}"} if rest else {}
        return f"{len(sizes):,} groups of {len(self.labels):,} vectors", facts


class Pair(NamedTuple):
    """Two rows, the lower first, and their cosine similarity."""

    first: int
    second: int
    score: float


def cluster(vectors: ArrayLike, k: int, *, central: int = 3, seed: int = 0) -> Clusters:
    """Divide vectors into ``k`` groups of similar direction, with scikit-learn's k-means (extra ``notebooks``).

    Args:
        vectors: Shape (n, d). Only their directions matter.
        k: Number of groups, 1 to n.
        central: How many of the most central rows to list for each group; a smaller group lists all its rows.
        seed: Seed of the random start. The same seed returns the same groups.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
        ValueError: If ``k`` is not within 1 to n, fewer than ``k`` vectors are distinct, or a vector is zero.
    """
    unit = _unit(vectors)
    if not 1 <= k <= len(unit):
        raise ValueError(f"k={k} groups of {len(unit)} vectors: choose 1 to {len(unit)}")
    different = len(np.unique(unit, axis=0))
    if k > different:
        raise ValueError(f"k={k} groups, but only {different} of the vectors differ: choose 1 to {different}")
    kmeans: Any = require("sklearn.cluster", "notebooks", "cluster").KMeans
    with one_thread():
        found = kmeans(n_clusters=k, n_init=4, random_state=seed).fit_predict(unit)
    # Number the groups by size, and groups of equal size by their first row, so that the numbers are stable.
    numbers, first, counts = np.unique(found, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    labels = np.argsort(order)[np.searchsorted(numbers, found)].astype(np.int64)
    groups = [np.flatnonzero(labels == number) for number in range(len(numbers))]
    centers = np.stack([unit[rows].mean(axis=0) for rows in groups])
    nearest = [rows[np.argsort(-(unit[rows] @ at), kind="stable")] for rows, at in zip(groups, centers, strict=True)]
    return Clusters(labels, tuple(rows[:central] for rows in nearest), normalize(centers))


def near_duplicates(vectors: ArrayLike, threshold: float = 0.95) -> list[Pair]:
    """Return all pairs of rows whose cosine similarity is at least ``threshold``, closest first.

    The time grows with n². Memory holds the pairs found, and the scores of 1,024 rows against all others.

    Args:
        vectors: Shape (n, d).
        threshold: Lowest cosine, -1 to 1. Which value means "nearly the same" depends on the model: look at a few pairs.

    Raises:
        ValueError: If the threshold is not within -1 to 1, or a vector is zero.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is not a cosine: choose a value from -1 to 1, such as 0.95")
    return sorted(_pairs(_unit(vectors), threshold), key=lambda pair: (-pair.score, pair.first, pair.second))


def one_thread() -> AbstractContextManager[Any]:
    """Make scikit-learn use one thread. With MKL's OpenMP, several threads wait for each other and are 15 times slower."""
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
        raise ValueError("vectors must have the shape (n, d), not (d,): one vector cannot be grouped")
    return unit
