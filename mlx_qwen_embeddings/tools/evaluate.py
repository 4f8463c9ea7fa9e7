"""How good is a model on labelled data: nDCG@10 for retrieval, Spearman for similarity of sentences."""

import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings._html import facts_table
from mlx_qwen_embeddings.engine import EmbeddingEngine, Vectors
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.similarity import top_k


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


class DatasetError(MLXQwenEmbeddingsError, ValueError):
    """A labelled set that cannot be read."""


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Questions, documents, and which answer which.

    Attributes:
        documents: Text by id, the title in front.
        queries: Text by id; only those that something is relevant to.
        relevance: Gain by document, by query.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    relevance: dict[str, dict[str, float]]


def read_retrieval(folder: Path, limit: int | None = None) -> RetrievalSet:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` (or ``qrels/test.tsv``).

    Args:
        folder: Where they lie.
        limit: Most queries; None is all. All documents stay: fewer would be an easier task.

    Raises:
        DatasetError: When a file is missing or malformed; the message names the file and the line.
    """
    documents = {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in _rows(folder / "corpus.jsonl")}
    texts = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl")}
    relevance = _relevance(folder)
    unknown = [query for query in relevance if query not in texts]
    if unknown or not relevance:
        message = (
            f"{folder}: the relevance file names {unknown[0]!r}, which queries.jsonl lacks"
            if unknown
            else (f"{folder}: the relevance file names no document as relevant")
        )
        raise DatasetError(message)
    chosen = [query for query in texts if query in relevance][:limit]
    return RetrievalSet(documents, {query: texts[query] for query in chosen}, relevance)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            _ = row["_id"], row["text"]
        except (ValueError, KeyError, TypeError) as error:
            message = f'{path}, line {number}: every line is a JSON object with "_id" and "text" ({error!r})'
            raise DatasetError(message) from error
        yield row


def _relevance(folder: Path) -> dict[str, dict[str, float]]:
    path = folder / "qrels.tsv"
    if not path.is_file():
        path = folder / "qrels" / "test.tsv"
    found: dict[str, dict[str, float]] = {}
    for query, document, score in _columns(path):
        if _number(score, path) > 0:
            found.setdefault(query, {})[document] = float(score)
    return found


def read_pairs(path: Path, limit: int | None = None) -> tuple[list[float], list[str], list[str]]:
    """Read lines of score, sentence and sentence, divided by tabs, below a line with their names.

    Raises:
        DatasetError: When it is missing or malformed.
    """
    rows = list(_columns(path))[:limit]
    if not rows:
        message = f"{path} holds no pair"
        raise DatasetError(message)
    scores, first, second = zip(*rows, strict=True)
    return [_number(score, path) for score in scores], list(first), list(second)


def _columns(path: Path, count: int = 3) -> Iterator[list[str]]:
    # Quotation marks are part of the sentences.
    lines = csv.reader(_text(path).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    next(lines, None)
    for number, line in enumerate(lines, start=2):
        if len(line) != count:
            message = f"{path}, line {number}: {count} columns divided by tabs are needed, not {len(line)}"
            raise DatasetError(message)
        yield line


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        message = f"{path}: {text!r} is no number"
        raise DatasetError(message) from error


def _text(path: Path) -> str:
    if not path.is_file():
        message = f"there is no {path}: a set is a folder with corpus.jsonl, queries.jsonl and qrels.tsv, or a TSV of pairs"
        raise DatasetError(message)
    return path.read_text(encoding="utf-8")


__all__ = ["DatasetError", "Score", "evaluate_pairs", "evaluate_retrieval", "ndcg", "rank_scores", "spearman"]

RANKS = 10


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of a model on one set.

    Attributes:
        data: The set.
        figure: What was measured.
        value: The figure; both kinds are best at 1.
        queries: Number of queries, or of pairs.
        documents: Number of documents; 0 for pairs.
        seconds: Time that it took, loading included.
    """

    data: str
    figure: str
    value: float
    queries: int
    documents: int
    seconds: float

    def _repr_html_(self) -> str:
        facts = {self.figure: f"{self.value:.4f}", "queries" if self.documents else "pairs": self.queries}
        return facts_table(self.data, facts | ({"documents": self.documents} if self.documents else {}))


def evaluate_retrieval(
    engine: EmbeddingEngine,
    folder: Path,
    *,
    instruction: str | None = None,
    limit: int | None = None,
    options: CallOptions | None = None,
) -> Score:
    """Rank all documents by cosine for every query, and give the mean nDCG@10.

    Args:
        engine: The model.
        folder: A set in BEIR's layout, see ``read_retrieval``.
        instruction: The task in words, for the queries; None takes the model's own.
        limit: Most queries; None is all.
        options: Further options of the embedding calls, such as ``dimensions`` or ``max_length``.

    Raises:
        DatasetError: When the set cannot be read.
    """
    start, data, options = time.perf_counter(), read_retrieval(folder, limit), options or {}
    documents = engine.embed_documents(data.documents.values(), **options)
    queries = engine.embed_queries(data.queries.values(), **options | CallOptions(instruction=instruction))
    value = float(np.mean(rank_scores(data, documents, queries)))
    return Score(str(folder), f"nDCG@{RANKS}", value, len(data.queries), len(data.documents), time.perf_counter() - start)


def rank_scores(data: RetrievalSet, documents: Vectors, queries: Vectors) -> list[float]:
    """Give nDCG@10 of every query.

    Args:
        data: The set.
        documents: Unit vectors of its documents, in its order; shape (documents, d).
        queries: Unit vectors of its queries; shape (queries, d).
    """
    # One more than counts, for the document that is the query itself.
    found = top_k(queries, documents, k=RANKS + 1)[1].tolist()
    names = list(data.documents)
    # A query that is a document itself (ArguAna) would find itself: BEIR leaves it out.
    rankings = (
        [names[row] for row in rows if names[row] != query] for query, rows in zip(data.queries, found, strict=True)
    )
    return [ndcg(ranking, data.relevance[query], RANKS) for query, ranking in zip(data.queries, rankings, strict=True)]


def evaluate_pairs(
    engine: EmbeddingEngine,
    path: Path,
    *,
    instruction: str | None = None,
    limit: int | None = None,
    options: CallOptions | None = None,
) -> Score:
    """Correlate the cosine of two sentences with people's judgement of how alike they are.

    Args:
        engine: The model.
        path: Scored pairs, see ``read_pairs``.
        instruction: The task in words, put in front of both sentences; None and "" put nothing.
        limit: Most pairs; None is all.
        options: Further options of the embedding calls.

    Raises:
        DatasetError: When the file cannot be read.
    """
    start, (scores, first, second) = time.perf_counter(), read_pairs(path, limit)
    vectors = engine.embed_queries([*first, *second], **(options or {}) | CallOptions(instruction=instruction or ""))
    cosines = np.einsum("nd,nd->n", vectors[: len(first)], vectors[len(first) :], dtype=np.float64)
    return Score(str(path), "Spearman", spearman(cosines, scores), len(first), 0, time.perf_counter() - start)
