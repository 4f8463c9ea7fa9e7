"""Stored vectors of the reference implementations, so that no test needs them installed; see tests/golden/make.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.encoder import Encoder
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.prompts import QWEN3_INSTRUCTION
from tests.golden.cases import NANO_TEXTS, ROWS, SEED, SHAPES
from tests.support.checkpoints import random_weights, write_checkpoint

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vectors.json").read_text())


@pytest.mark.parametrize("role", ["document", "query"])
def test_nano_equals_sentence_transformers(role: str) -> None:
    with EmbeddingEngine("nano") as engine:
        if role == "query":
            found = engine.embed_queries(NANO_TEXTS, instruction=QWEN3_INSTRUCTION)
        else:
            found = engine.embed_documents(NANO_TEXTS)
    np.testing.assert_allclose(found, GOLDEN["nano"][role], rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("name", SHAPES)
def test_random_checkpoints_equal_transformers(tmp_path: Path, name: str, prefix: str) -> None:
    shape = SHAPES[name]
    folder = write_checkpoint(tmp_path, random_weights(shape, SEED), shape.config(), prefix=prefix)
    encoder = Encoder(ModelFiles(folder), choose_backend("cpu"))
    found = encoder.encode([np.array(row, dtype=np.int32) for row in ROWS], "last", None)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, GOLDEN["random"][name], rtol=0, atol=1e-5)


def test_the_golden_vectors_differ_between_texts_shapes_and_prompts() -> None:
    nano = GOLDEN["nano"]
    different = [*nano["document"], *nano["query"]]
    apart = np.abs(np.array(different)[:, None] - np.array(different)[None]).max(axis=-1)
    assert apart[~np.eye(len(different), dtype=bool)].min() > 1e-3
    assert len({json.dumps(vectors) for vectors in GOLDEN["random"].values()}) == len(SHAPES)
