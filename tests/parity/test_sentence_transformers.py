"""From text to unit vector beside sentence-transformers, on nano unpacked to float32."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from tests.checkpoints import write_unpacked

TEXTS = [
    "How do I cook pasta?",
    "",
    " two  spaces ",
    "line\nbreak\ttab",
    "naïve café",
    "日本語",
    "🍝 emoji",
    "nul \0 byte",
    "x " * 3000,
]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unpacked(tmp_path_factory.mktemp("nano") / "fp32")


@pytest.mark.parametrize("prompt", ["", QWEN3_PROMPT])
@pytest.mark.parametrize("dimensions", [None, 64])
def test_nano_equals_sentence_transformers(unpacked: Path, prompt: str, dimensions: int | None) -> None:
    theirs = SentenceTransformer(str(unpacked), device="cpu", truncate_dim=dimensions)
    expected = theirs.encode(TEXTS, prompt=prompt, normalize_embeddings=True, convert_to_numpy=True)
    instruction = prompt.removeprefix("Instruct: ").removesuffix("\nQuery:")
    for model in (str(unpacked), "nano"):
        with EmbeddingEngine(model) as engine:
            found = engine.embed_queries(TEXTS, instruction=instruction, dimensions=dimensions)
        assert np.abs(found - expected).max() < 1e-5
