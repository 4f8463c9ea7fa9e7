"""The two figures that embeddings are judged by."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ndcg(ranking: Sequence[str], relevance: Mapping[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain, as trec_eval's ``ndcg_cut`` computes it: linear gain, log2(rank + 1).

    Args:
        ranking: Documents, best first.
        relevance: Gain of each relevant document; one that is absent, or below 0, gains nothing.
        k: Ranks that count.

    Returns:
        0 to 1; 0 when nothing is relevant.
    """
    gains = [max(relevance.get(document, 0.0), 0.0) for document in ranking[:k]]
    ideal = sorted((max(gain, 0.0) for gain in relevance.values()), reverse=True)[:k]
    best = _discounted(ideal)
    return _discounted(gains) / best if best else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's, of the ranks, where equal values share the mean of theirs.

    Args:
        a: Shape (n,).
        b: Shape (n,).

    Raises:
        ValueError: When the lengths differ, or one is constant, so that there is nothing to correlate.
    """
    left, right = _ranks(np.asarray(a, dtype=np.float64)), _ranks(np.asarray(b, dtype=np.float64))
    if len(left) != len(right):
        message = f"a rank correlation needs pairs: there are {len(left)} values and {len(right)}"
        raise ValueError(message)
    left, right = left - left.mean(), right - right.mean()
    size = float(np.sqrt((left @ left) * (right @ right)))
    if size == 0:
        message = "a rank correlation needs values that differ: all of one side are the same"
        raise ValueError(message)
    return float(left @ right) / size


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = last - (counts - 1) / 2
    return mean[inverse.ravel()]
