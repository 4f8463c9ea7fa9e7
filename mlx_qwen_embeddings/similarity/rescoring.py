"""Search binary vectors, then rank the candidates with better vectors: nearly the same results in 1/32 of the memory.

The method is that of Yamada, Asai and Hajishirzi (2021, arXiv:2106.00882), who rerank with the query's continuous vector.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings.options import Precision
from mlx_qwen_embeddings.precision import restore
from mlx_qwen_embeddings.similarity.compare import METRICS, Found, Metric, check_count, lowest

_TILE = 2**22
"""Pairs of query and document to compare at once. This many take about 80 MB of memory."""


def top_k_bits(queries: ArrayLike, documents: ArrayLike, k: int = 10) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the ``k`` documents that differ from each query in the fewest bits.

    Args:
        queries: "ubinary" or "binary" vectors, shape (bytes,) or (n, bytes).
        documents: Vectors of the same precision, shape (m, bytes).
        k: How many documents to find; all of them if there are fewer.

    Returns:
        Numbers of differing bits and document rows, each (n, k), or (k,) for a single query. Fewest bits first; for equal
        numbers, the lower row first.

    Raises:
        ValueError: If the vectors are not packed bits, or the two differ in precision or width.
    """
    check_count(k, "k")
    a, b = _read(queries, "queries"), _read(documents, "documents")
    if b.ndim != 2:  # noqa: PLR2004 - axes
        raise ValueError(f"documents must have two axes, not shape {b.shape}: pass [vector] for a single one")
    if (a.dtype, a.shape[-1]) != (b.dtype, b.shape[-1]):
        raise ValueError(
            f"queries are {a.shape[-1]} bytes of {a.dtype}, documents {b.shape[-1]} of {b.dtype}: quantise both with the "
            "same precision and the same dimensions"
        )
    # "binary" is "ubinary" with the highest bit of each byte flipped. Both sides have it flipped, so the same bits differ.
    left, right = _words(np.atleast_2d(a)), np.ascontiguousarray(_words(b).T)
    shape = (len(left), min(k, len(b)))
    distances, rows = np.empty(shape, np.int64), np.empty(shape, np.int64)
    step = max(1, _TILE // max(1, len(b)))
    for start in range(0, shape[0], step):
        for row, counts in enumerate(_differing(left[start : start + step], right), start):
            rows[row] = lowest(counts, k)
            distances[row] = counts[rows[row]]
    return (distances[0], rows[0]) if a.ndim == 1 else (distances, rows)


def rescore(
    queries: ArrayLike,
    candidates: ArrayLike,
    documents: ArrayLike,
    k: int = 10,
    *,
    precision: Precision = "float32",
    ranges: ArrayLike | None = None,
    metric: Metric = "cosine",
) -> Found:
    """Rank the candidates of each query again, with more precise vectors than the search used.

    Args:
        queries: Real numbers, shape (d,) or (n, d).
        candidates: Document rows, shape (c,) or (n, c). Four times ``k`` are usually enough.
        documents: Vectors of all documents, shape (m, d), or packed bits. From a memory map, only the candidates are read.
        k: How many documents to keep.
        precision: Precision of ``documents``. "ubinary" and "binary" help too, even with the same bits as in the search: a
            query of real numbers distinguishes documents better than a query of bits.
        ranges: Ranges with which ``documents`` were quantised, for "int8" and "uint8"; None takes ``unit_ranges``.
        metric: How to compare, as in ``top_k``.

    Returns:
        Scores and document rows, best first, as from ``top_k``.

    Raises:
        ValueError: If the shapes do not fit together, or a candidate is not a row, such as the -1 that FAISS pads with.
    """
    check_count(k, "k")
    a, found = np.asarray(queries), np.asarray(candidates)
    stored: Any = documents if isinstance(documents, np.ndarray) else np.asarray(documents)
    if a.shape[:-1] != found.shape[:-1] or found.dtype.kind not in "iu":
        raise ValueError(f"candidates must be rows of documents, one list per query, not {found.dtype} {found.shape}")
    if found.size and not 0 <= found.min() <= found.max() < len(stored):
        wrong = int(found.min()) if found.min() < 0 else int(found.max())
        raise ValueError(
            f"candidates hold {wrong}, and rows go from 0 to {len(stored) - 1}: leave out what a search pads with"
        )
    best = []
    for query, rows in zip(np.atleast_2d(a), np.atleast_2d(found), strict=True):
        ordered = np.sort(rows)  # for equal scores, the lower row comes first
        vectors = restore(stored[ordered], precision, dimensions=a.shape[-1], ranges=ranges)
        scores = METRICS[metric](query, vectors)
        kept = lowest(-scores if metric in {"cosine", "dot"} else scores, k)
        best.append((scores[kept], ordered[kept]))
    width = min(k, found.shape[-1])
    scores = np.array([scores for scores, _ in best], dtype=np.float32).reshape(len(best), width)
    indices = np.array([rows for _, rows in best], dtype=np.int64).reshape(len(best), width)
    return (scores[0], indices[0]) if a.ndim == 1 else (scores, indices)


def _read(vectors: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(vectors)
    if array.dtype not in (np.uint8, np.int8) or array.ndim not in {1, 2} or not array.shape[-1]:
        raise ValueError(
            f"{name} must be packed bits, int8 or uint8 of shape (bytes,) or (n, bytes), not {array.dtype} {array.shape}: "
            'quantize(vectors, "ubinary") makes them'
        )
    return array


def _words(packed: NDArray[Any]) -> NDArray[np.uint64]:
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed.view(np.uint8)
    return padded.view(np.uint64)


def _differing(queries: NDArray[np.uint64], documents: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Count differing bits. Queries are (n, words), documents (words, m), the result (n, m)."""
    counts = np.zeros((len(queries), documents.shape[1]), dtype=np.uint16)
    for word, column in enumerate(documents):
        counts += np.bitwise_count(queries[:, word, None] ^ column)
    return counts
