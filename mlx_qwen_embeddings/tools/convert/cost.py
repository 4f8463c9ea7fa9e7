"""What a conversion costs: how far vectors turn, and how much worse they find what answers a question."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.tools.evaluate import rank_scores, read_retrieval
from mlx_qwen_embeddings.tools.labelled import LABELLED


@dataclass(frozen=True, slots=True)
class Measured:
    """A model on the labelled set.

    Attributes:
        vectors: Of every document and every query, each embedded as such; shape (texts, d).
        scores: nDCG@10 of every query; shape (queries,).
    """

    vectors: NDArray[np.float32]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """A result beside its source.

    Attributes:
        texts: Number of texts.
        mean: Mean cosine of a text's two vectors.
        worst: The least of these cosines.
        worst_text: The text that has it.
        source_ndcg: nDCG@10 of the source.
        result_ndcg: That of the result.
        error: Standard error of the difference of the two, over the queries: what is smaller may be chance.
    """

    texts: int
    mean: float
    worst: float
    worst_text: str
    source_ndcg: float
    result_ndcg: float
    error: float


def measure(engine: EmbeddingEngine, folder: Path = LABELLED, options: CallOptions | None = None) -> Measured:
    """Embed a labelled set and score what is found.

    Args:
        engine: The model.
        folder: A set in BEIR's layout.
        options: Options of the embedding calls.
    """
    data, options = read_retrieval(folder), options or {}
    documents = engine.embed_documents(data.documents.values(), **options)
    queries = engine.embed_queries(data.queries.values(), **options)
    return Measured(np.concatenate([documents, queries]), np.array(rank_scores(data, documents, queries)))


def compare(source: Measured, result: Measured, folder: Path = LABELLED) -> Cost:
    """Hold a result against its source, both measured on the same set."""
    data = read_retrieval(folder)
    texts = [*data.documents.values(), *data.queries.values()]
    cosines = np.einsum("nd,nd->n", source.vectors, result.vectors, dtype=np.float64)
    worst = int(cosines.argmin())
    change = result.scores - source.scores
    return Cost(
        texts=len(texts),
        mean=float(cosines.mean()),
        worst=float(cosines[worst]),
        worst_text=texts[worst],
        source_ndcg=float(source.scores.mean()),
        result_ndcg=float(result.scores.mean()),
        error=float(change.std(ddof=1) / np.sqrt(len(change))),
    )
