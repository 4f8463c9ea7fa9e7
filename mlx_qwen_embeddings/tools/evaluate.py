"""How good a model is on labelled data: nDCG@10 for retrieval, Spearman's correlation for the similarity of sentences."""

import csv
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings._html import NotebookTable, Table
from mlx_qwen_embeddings.engine import EmbeddingEngine, Vectors
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.similarity import top_k

LABELLED = Path(__file__).parent / "labelled"
"""A retrieval set of 150 paragraphs of Wikipedia and 350 questions about them; its README names the source."""

RANKS = 10
"""Number of ranks that count for nDCG."""


class DatasetError(MLXQwenEmbeddingsError, ValueError):
    """A labelled set that cannot be read."""


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Documents, queries, and which documents are relevant to which query.

    Attributes:
        documents: Text by id, with the title in front.
        queries: Text by id, without queries that no document is relevant to.
        relevance: Gain by document, by query.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    relevance: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Score(NotebookTable):
    """The score of a model on one labelled set.

    Attributes:
        data: The set's path.
        figure: "nDCG@10" or "Spearman"; 1 is the best value of both.
        value: The score.
        queries: Number of queries, or of pairs.
        documents: Number of documents; 0 for pairs.
        seconds: How long it took, including loading the model.
    """

    data: str
    figure: str
    value: float
    queries: int
    documents: int
    seconds: float

    def _table(self) -> Table:
        facts = {self.figure: f"{self.value:.4f}", "queries" if self.documents else "pairs": self.queries}
        return self.data, facts | ({"documents": self.documents} if self.documents else {})


def evaluate_retrieval(
    engine: EmbeddingEngine, folder: Path, *, limit: int | None = None, **options: Unpack[CallOptions]
) -> Score:
    """Rank all documents by cosine for every query, and return the mean nDCG@10.

    Args:
        engine: The model.
        folder: A set in BEIR's layout, see ``read_retrieval``.
        limit: Maximum number of queries; None takes all.
        **options: Options of the embedding calls; ``instruction`` is for the queries.

    Raises:
        DatasetError: If the set cannot be read.
    """
    start, data = time.perf_counter(), read_retrieval(folder, limit)
    documents = engine.embed_documents(data.documents.values(), **options | CallOptions(instruction=None))
    queries = engine.embed_queries(data.queries.values(), **options)
    value = float(np.mean(rank_scores(data, documents, queries)))
    return Score(str(folder), f"nDCG@{RANKS}", value, len(data.queries), len(data.documents), time.perf_counter() - start)


def evaluate_pairs(
    engine: EmbeddingEngine, path: Path, *, limit: int | None = None, **options: Unpack[CallOptions]
) -> Score:
    """Correlate the cosines of pairs of sentences with human judgements of their similarity.

    Args:
        engine: The model.
        path: Scored pairs, see ``read_pairs``.
        limit: Maximum number of pairs; None takes all.
        **options: Options of the embedding call; without ``instruction`` both sentences have none.

    Raises:
        DatasetError: If the file cannot be read.
    """
    start, (scores, first, second) = time.perf_counter(), read_pairs(path, limit)
    options["instruction"] = options.get("instruction") or ""
    vectors = engine.embed_queries([*first, *second], **options)
    cosines = np.einsum("nd,nd->n", vectors[: len(first)], vectors[len(first) :], dtype=np.float64)
    return Score(str(path), "Spearman", spearman(cosines, scores), len(first), 0, time.perf_counter() - start)


def rank_scores(data: RetrievalSet, documents: Vectors, queries: Vectors) -> list[float]:
    """Return the nDCG@10 of each query, from unit vectors in the set's order; shapes (documents, d) and (queries, d)."""
    # One rank more, because a query that is also a document (as in ArguAna) finds itself. BEIR does not count that.
    found = top_k(queries, documents, k=RANKS + 1)[1].tolist()
    names = list(data.documents)
    return [
        ndcg([names[row] for row in rows if names[row] != query], data.relevance[query])
        for query, rows in zip(data.queries, found, strict=True)
    ]


def ndcg(ranking: Sequence[str], relevance: Mapping[str, float], k: int = RANKS) -> float:
    """Return the normalised discounted cumulative gain as trec_eval's ``ndcg_cut`` does: linear gain, log2(rank + 1).

    Args:
        ranking: Documents, best first.
        relevance: Gain of each relevant document; others, and gains below 0, count as 0.
        k: Number of ranks that count.

    Returns:
        0 to 1; 0 if no document is relevant.
    """
    gains = [max(relevance.get(document, 0.0), 0.0) for document in ranking[:k]]
    best = sorted((max(gain, 0.0) for gain in relevance.values()), reverse=True)[:k]
    found, most = (sum(gain / math.log2(rank + 2) for rank, gain in enumerate(row)) for row in (gains, best))
    return found / most if most else 0.0


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks, where equal values share their mean rank.

    Args:
        a: Shape (n,).
        b: Shape (n,).

    Raises:
        ValueError: If the lengths differ, or all values of one side are equal.
    """
    left, right = _ranks(np.asarray(a, dtype=np.float64)), _ranks(np.asarray(b, dtype=np.float64))
    if len(left) != len(right):
        raise ValueError(f"a rank correlation needs pairs: there are {len(left)} values and {len(right)}")
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        raise ValueError("a rank correlation needs values that differ: all of one side are the same")
    return float(np.corrcoef(left, right)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return mean[inverse.ravel()]


def passages() -> list[str]:
    """Return the distinct paragraphs of the labelled set."""
    return list(dict.fromkeys(read_retrieval(LABELLED).documents.values()))


def read_retrieval(folder: Path, limit: int | None = None) -> RetrievalSet:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` (or ``qrels/test.tsv``).

    Args:
        folder: The set's folder.
        limit: Maximum number of queries; None takes all. Documents are not limited: fewer would make the task easier.

    Raises:
        DatasetError: If a file is missing or malformed; the message names the file and the line.
    """
    documents = {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in _rows(folder / "corpus.jsonl")}
    texts = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl")}
    path = folder / "qrels.tsv"
    relevance: dict[str, dict[str, float]] = {}
    for query, document, gain in _lines(path if path.is_file() else folder / "qrels" / "test.tsv", scored=2):
        if gain > 0:
            relevance.setdefault(query, {})[document] = gain
    if not relevance:
        raise DatasetError(f"{folder}: the relevance file names no document as relevant")
    if unknown := relevance.keys() - texts.keys():
        raise DatasetError(f"{folder}: the relevance file names {min(unknown)!r}, which queries.jsonl lacks")
    chosen = [query for query in texts if query in relevance][:limit]
    return RetrievalSet(documents, {query: texts[query] for query in chosen}, relevance)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            _ = row["_id"], row["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f'{path}, line {number}: every line must be a JSON object with "_id" and "text" ({error!r})'
            ) from error
        yield row


def read_pairs(path: Path, limit: int | None = None) -> tuple[list[float], list[str], list[str]]:
    """Read scored pairs: a header line, then one score and two sentences per line, separated by tabs.

    Raises:
        DatasetError: If the file is missing or malformed.
    """
    rows = list(_lines(path, scored=0))[:limit]
    if not rows:
        raise DatasetError(f"{path} has no pairs")
    scores, first, second = map(list, zip(*rows, strict=True))
    return scores, first, second


def _lines(path: Path, scored: int) -> Iterator[list[Any]]:
    """Yield the three columns of each line after the header; the one at ``scored`` is a number."""
    # Quotation marks are part of the sentences.
    lines = csv.reader(_read(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    next(lines, None)
    for number, line in enumerate(lines, start=2):
        row: list[Any] = [*line]
        try:
            row[scored] = float(row[scored])
            _, _, _ = row
        except (IndexError, ValueError) as error:
            raise DatasetError(
                f"{path}, line {number}: needs three columns separated by tabs, a number in column {scored + 1}"
            ) from error
        yield row


def _read(path: Path) -> str:
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing: a set is a folder with corpus.jsonl, queries.jsonl and qrels.tsv, or a TSV of pairs"
        )
    return path.read_text(encoding="utf-8")
