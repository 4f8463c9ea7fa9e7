"""Every shortcut of the encoder beside the plain path: all tokens through all layers."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings.backend import choose_backend
from mlx_qwen_embeddings.batching import shared_prefix
from mlx_qwen_embeddings.encoder import Encoder
from mlx_qwen_embeddings.model_files import ModelFiles
from mlx_qwen_embeddings.models import attention
from mlx_qwen_embeddings.models.activations import silu
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tokenization import Ids

TEXTS = ["how to cook pasta", ": colon merges", "What is gravity?", "a" * 50, "", " leading", "日本語", "x " * 300]
FILES = ModelFiles(NANO_FOLDER)


@pytest.fixture(scope="module")
def encoders() -> tuple[Encoder, Encoder]:
    backend = choose_backend("cpu")
    return Encoder(FILES, backend), Encoder(FILES, backend, plain=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ids_of(texts: list[str]) -> list[Ids]:
    return [tokens.ids for tokens in FILES.tokenizer().encode(texts, max_length=2048)]


@pytest.mark.parametrize("prompt", ["", QWEN3_PROMPT, "Find: ", "p" * 900])
def test_a_kept_prompt_and_a_short_last_layer_change_nothing(encoders: tuple[Encoder, Encoder], prompt: str) -> None:
    fast, plain = encoders
    rows = ids_of([prompt + text for text in TEXTS])
    start = ids_of([prompt])[0][:-1] if prompt else None
    expected = unit(plain.encode(rows, "last"))
    assert np.abs(unit(fast.encode(rows, "last", start)) - expected).max() < 1e-6
    alone = np.concatenate([fast.encode([row], "last", start) for row in rows])
    assert np.abs(unit(alone) - expected).max() < 1e-6


def test_the_kept_prompt_is_really_used(encoders: tuple[Encoder, Encoder]) -> None:
    fast, _ = encoders
    rows, start = ids_of([QWEN3_PROMPT + text for text in TEXTS]), ids_of([QWEN3_PROMPT])[0][:-1]
    fast.encode(rows, "last", start)
    shape: list[tuple[int, ...]] = []
    inner = fast._causal
    assert inner is not None
    original = inner.last_hidden

    def spy(ids: mx.array, lengths: mx.array, prefix: object) -> mx.array:
        shape.append(ids.shape)
        return original(ids, lengths, prefix)

    object.__setattr__(inner, "last_hidden", spy)
    try:
        fast.encode(rows[:1], "last", start)
    finally:
        object.__delattr__(inner, "last_hidden")
    assert shape[0][1] <= len(rows[0]) - len(start) + 1 + 15, "up to a multiple of 16"
    assert shape[0][1] < len(rows[0])


def test_a_prompt_of_another_text_is_left_alone() -> None:
    rows = [np.array(row, dtype=np.int32) for row in ([1, 2, 3, 9], [1, 2, 4, 9], [1, 2, 3, 4, 9])]
    assert shared_prefix(rows, np.array([1, 2, 3, 4], dtype=np.int32)) == 2
    assert shared_prefix(rows, np.array([5], dtype=np.int32)) == 0
    assert shared_prefix(rows[:1], np.array([1, 2, 3, 9], dtype=np.int32)) == 3, "a row keeps one id of its own"


def test_blocks_of_queries_give_the_same_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (mx.random.normal((2, heads, 37, 16), key=mx.random.key(heads)) for heads in (4, 2, 2))
    whole = np.array(attention.causal_attention(q, k, v, scale=0.25))
    monkeypatch.setattr(attention, "SCORE_BYTES", 4 * 2 * 4 * 37 * 5)
    assert np.abs(np.array(attention.causal_attention(q, k, v, scale=0.25)) - whole).max() < 1e-6


def test_the_cheap_silu_is_the_plain_one() -> None:
    x = np.linspace(-100, 100, 20_001, dtype=np.float32)
    wide = x.astype(np.float64)
    assert np.abs(np.array(silu(mx.array(x))) - wide / (1 + np.exp(-wide))).max() < 2e-6
