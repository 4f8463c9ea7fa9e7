"""``mlx-qwen compare``: the matrix as text and as JSON."""

import json
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from tests.support.command_line import run as run_command

TEXTS = ["a cat", "kitten,\nasleep", "[red] the bank"]


def run(*arguments: object) -> tuple[int, str, str]:
    return run_command("compare", "-m", "nano", *arguments)


def test_the_matrix_as_text(engine: EmbeddingEngine) -> None:
    vectors = engine.embed_documents(TEXTS).astype(np.float64)
    cosines = vectors @ vectors.T
    names = ["1 a cat", "2 kitten, asleep", "3 [red] the bank"]
    lines = ["                       1       2       3"]
    for name, row in zip(names, cosines, strict=True):
        lines.append(f"{name:<16}  " + "  ".join(f"{value:.4f}" for value in row))
    assert run(*TEXTS) == (0, "\n".join(lines) + "\n", "")


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean", "manhattan"])
def test_json_with_every_metric_and_with_options(metric: str, engine: EmbeddingEngine) -> None:
    status, out, err = run(
        *TEXTS, "--json", "--metric", metric, "--role", "query", "--instruction", "Go", "--dimensions", 64
    )
    data = json.loads(out)
    assert (status, err, data["metric"], data["texts"]) == (0, "", metric, TEXTS)
    vectors = engine.embed_queries(TEXTS, instruction="Go", dimensions=64).astype(np.float64)
    differences = vectors[:, None] - vectors
    expected: Any = {
        "cosine": vectors @ vectors.T,
        "dot": vectors @ vectors.T,
        "euclidean": np.sqrt((differences**2).sum(-1)),
        "manhattan": np.abs(differences).sum(-1),
    }[metric]
    np.testing.assert_allclose(data["scores"], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("arguments", [(), ("a",), ("a", "b", "--metric", "hamming")])
def test_wrong_usage_exits_with_2(arguments: tuple[object, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: mlx-qwen compare" in err
