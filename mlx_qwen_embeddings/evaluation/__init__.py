"""How good is a model on labelled data: nDCG@10 for retrieval, Spearman for similarity of sentences."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_qwen_embeddings.engine import EmbeddingEngine, Vectors
from mlx_qwen_embeddings.evaluation.measures import ndcg, spearman
from mlx_qwen_embeddings.evaluation.sets import DatasetError, RetrievalSet, read_pairs, read_retrieval
from mlx_qwen_embeddings.html_table import facts_table
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.similarity import top_k

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
