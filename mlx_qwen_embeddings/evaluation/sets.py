"""Read labelled sets: retrieval in the layout of BEIR, and scored pairs of sentences."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError


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
