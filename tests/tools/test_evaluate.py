"""The metrics against values computed by hand, and the readers of labelled sets."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.tools.evaluate import (
    DatasetError,
    evaluate_pairs,
    evaluate_retrieval,
    ndcg,
    read_pairs,
    read_retrieval,
    spearman,
)


@pytest.mark.parametrize(
    ("ranking", "relevance", "expected"),
    [
        (["a", "b"], {"a": 1}, 1.0),
        (["b", "a"], {"a": 1}, 1 / math.log2(3)),
        (["b", "c"], {"a": 1}, 0.0),
        # sklearn.metrics.ndcg_score([[3, 2, 0, 1]], [[4, 3, 2, 1]], k=10): linear gain, not 2 ** gain - 1.
        (["a", "b", "x", "c"], {"a": 3, "b": 2, "c": 1}, 0.9854419388428785),
        (["x"] * 10 + ["a"], {"a": 1}, 0.0),
        (["a"], dict.fromkeys("abcdefghijkl", 1), 1 / sum(1 / math.log2(rank + 2) for rank in range(10))),
        (["b", "a"], {"a": 1, "b": -1}, 1 / math.log2(3)),
        (["a"], {}, 0.0),
    ],
)
def test_ndcg(ranking: list[str], relevance: dict[str, float], expected: float) -> None:
    assert ndcg(ranking, relevance) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # scipy.stats.spearmanr's documentation
        ([1, 1, 2, 3], [1, 2, 2, 3], 0.8333333333333334),  # ties on both sides: ranks 1.5 1.5 3 4 and 1 2.5 2.5 4
        ([0.1, 10, 1e9], [1, 2, 3], 1.0),
    ],
)
def test_spearman(a: list[float], b: list[float], expected: float) -> None:
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_distinct_values_follows_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.permutation(200), rng.permutation(200)
    assert spearman(a, b) == pytest.approx(1 - 6 * int(((a - b) ** 2).sum()) / (200 * (200**2 - 1)), abs=1e-12)


@pytest.mark.parametrize(("a", "b", "words"), [([1, 2], [1, 2, 3], "pairs"), ([1, 1], [1, 2], "differ")])
def test_spearman_refuses_input_without_an_answer(a: list[float], b: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spearman(a, b)


def write_set(folder: Path, qrels: str = "q1\tbirds\t1\nq2\tstew\t1\n") -> Path:
    corpus: list[dict[str, Any]] = [
        {"_id": "birds", "title": "Swallows", "text": "They leave for Africa in autumn."},
        {"_id": "stew", "title": "", "text": "Let the beef simmer for three hours."},
        {"_id": "law", "text": "The landlord has to give notice in writing."},
    ]
    queries = [
        {"_id": "q1", "text": "Where do birds go in winter?"},
        {"_id": "q2", "text": "How long does a beef stew cook?"},
        {"_id": "q3", "text": "Nothing answers this."},
    ]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}", "utf-8")
    return folder


def test_a_set_is_read_with_titles_and_without_unanswered_queries(tmp_path: Path) -> None:
    found = read_retrieval(write_set(tmp_path))
    assert found.documents["birds"] == "Swallows They leave for Africa in autumn."
    assert found.documents["stew"] == "Let the beef simmer for three hours."
    assert list(found.queries) == ["q1", "q2"]
    assert found.relevance["q2"] == {"stew": 1.0}
    assert list(read_retrieval(tmp_path, limit=1).queries) == ["q1"]


def test_the_relevance_file_may_be_where_beir_puts_it(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels.tsv").rename(tmp_path / "qrels" / "test.tsv")
    assert read_retrieval(tmp_path).relevance == {"q1": {"birds": 1.0}, "q2": {"stew": 1.0}}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{"id": 1}\n', "line 2"),
        ("queries.jsonl", "no JSON\n", "line 1"),
        ("qrels.tsv", "head\nq1 birds 1\n", "line 2: needs three columns"),
        ("qrels.tsv", "head\nq1\tbirds\tmuch\n", "line 2: .* a number in column 3"),
        ("qrels.tsv", "head\nq9\tbirds\t1\n", "'q9', which queries.jsonl lacks"),
        ("qrels.tsv", "head\nq1\tbirds\t0\n", "names no document"),
    ],
)
def test_a_malformed_set_is_an_error_that_names_the_line(file: str, content: str, words: str, tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / file).write_text(content, "utf-8")
    with pytest.raises(DatasetError, match=words):
        read_retrieval(tmp_path)


def test_quotation_marks_are_part_of_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text('score\ta\tb\n3.5\t"Yes," he said.\tsay "no"\n1\ta\tb\n', "utf-8")
    assert read_pairs(path) == ([3.5, 1.0], ['"Yes," he said.', "a"], ['say "no"', "b"])
    assert read_pairs(path, limit=1)[0] == [3.5]


def test_nano_finds_answers_and_agrees_with_human_judgements(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("score\ta\tb\n5\tA dog runs.\tA dog is running.\n0\tA dog runs.\tI like soup.\n", "utf-8")
    with EmbeddingEngine("nano") as engine:
        score = evaluate_retrieval(engine, write_set(tmp_path))
        wrong = evaluate_retrieval(engine, write_set(tmp_path, qrels="q1\tlaw\t1\nq2\tlaw\t1\n"))
        agreement = evaluate_pairs(engine, pairs)
    assert (score.value, score.queries, score.documents, score.figure) == (1.0, 2, 3, "nDCG@10")
    assert wrong.value < 0.64  # never first
    assert agreement.value == pytest.approx(1.0)
    assert agreement.queries == 2


def test_a_query_does_not_find_itself(tmp_path: Path) -> None:
    write_set(tmp_path)
    query = {"_id": "birds", "text": "Swallows They leave for Africa in autumn."}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query) + "\n", "utf-8")
    (tmp_path / "qrels.tsv").write_text("head\nbirds\tstew\t1\nbirds\tlaw\t1\n", "utf-8")
    with EmbeddingEngine("nano") as engine:
        assert evaluate_retrieval(engine, tmp_path).value == 1.0
