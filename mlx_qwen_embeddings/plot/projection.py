"""Two dimensions out of many."""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.similarity.clusters import one_thread

Method: TypeAlias = Literal["pca", "tsne"]
Points: TypeAlias = NDArray[np.float64]

_PLANE = 2
_BEFORE_TSNE = 50
"""Principal components that t-SNE starts from, as its authors do (van der Maaten and Hinton, 2008)."""


def project(vectors: NDArray[np.float32], method: Method, seed: int) -> tuple[Points, tuple[str, str]]:
    """Give points, (n, 2), and what the axes are; two columns are points already.

    Raises:
        MissingExtraError: When t-SNE is asked for and scikit-learn is not installed.
        ValueError: For another method.
    """
    if vectors.shape[1] == _PLANE:
        return vectors.astype(np.float64), ("", "")
    if method == "pca":
        points, shares = principal(vectors, _PLANE)
        return points, (f"1st component, {shares[0]:.0%} of variance", f"2nd component, {shares[1]:.0%}")
    if method == "tsne":
        tsne: Any = require("sklearn.manifold", "notebooks", "t-SNE").TSNE
        start, _ = principal(vectors, min(_BEFORE_TSNE, *vectors.shape))
        if len(vectors) <= _PLANE:
            return np.pad(start, ((0, 0), (0, _PLANE)))[:, :_PLANE], ("", "")
        perplexity = min(30.0, (len(vectors) - 1) / 3)
        with one_thread():
            found: Points = tsne(perplexity=perplexity, init="pca", random_state=seed).fit_transform(start)
        return found, ("t-SNE: near points are alike; far distances mean little", "")
    message = f'unknown method {method!r}: choose "pca" or "tsne", or pass points of your own, shape (n, 2)'
    raise ValueError(message)


def principal(vectors: NDArray[np.float32], count: int) -> tuple[Points, NDArray[np.float64]]:
    """Give the first principal components, (n, count), and each one's share of the variance."""
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    # Of the covariance: its size is the width of the vectors, however many there are.
    variances, directions = np.linalg.eigh(centered.T @ centered)
    variances, directions = variances[::-1].clip(0), directions[:, ::-1][:, :count]
    # Eigenvectors have no sign of their own: one for all machines.
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(directions.shape[1])])
    return centered @ directions, variances[:count] / max(float(variances.sum()), 1e-30)
