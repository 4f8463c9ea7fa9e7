"""Every shortcut of the encoder against the plain path, which runs all tokens through all layers."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.batching import shared_prefix
from mlx_qwen_embeddings.compute.encoder import Encoder
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.models import attention
from mlx_qwen_embeddings.models.activations import silu
from mlx_qwen_embeddings.models.attention import KeysValues
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tokenization import Ids

TEXTS = ["how to cook pasta", ": colon merges", "What is gravity?", "a" * 50, "", " leading", "日本語", "x " * 300]
FILES = ModelFiles(NANO_FOLDER)


@pytest.fixture(scope="module")
def encoders() -> tuple[Encoder, Encoder]:
    backend = choose_backend("cpu")
    return Encoder(FILES, backend), Encoder(FILES, backend, plain=True)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


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


def test_the_kept_prompt_is_used(encoders: tuple[Encoder, Encoder]) -> None:
    fast, _ = encoders
    rows, start = ids_of([QWEN3_PROMPT + text for text in TEXTS]), ids_of([QWEN3_PROMPT])[0][:-1]
    fast.encode(rows, "last", start)
    shape: list[tuple[int, ...]] = []
    inner = fast._causal
    assert inner is not None
    original = inner.last_hidden

    def spy(ids: mx.array, lengths: mx.array, prefix: Sequence[KeysValues] | None) -> mx.array:
        shape.append(ids.shape)
        return original(ids, lengths, prefix)

    object.__setattr__(inner, "last_hidden", spy)
    try:
        fast.encode(rows[:1], "last", start)
    finally:
        object.__delattr__(inner, "last_hidden")
    assert shape[0][1] <= len(rows[0]) - len(start) + 1 + 15, "up to a multiple of 16"
    assert shape[0][1] < len(rows[0])


def test_only_the_start_that_all_rows_share_is_counted() -> None:
    rows = [np.array(row, dtype=np.int32) for row in ([1, 2, 3, 9], [1, 2, 4, 9], [1, 2, 3, 4, 9])]
    assert shared_prefix(rows, np.array([1, 2, 3, 4], dtype=np.int32)) == 2
    assert shared_prefix(rows, np.array([5], dtype=np.int32)) == 0
    assert shared_prefix(rows[:1], np.array([1, 2, 3, 9], dtype=np.int32)) == 3, "a row keeps one id of its own"


def test_blocks_of_queries_give_the_same_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (mx.random.normal((2, heads, 37, 16), key=mx.random.key(heads)) for heads in (4, 2, 2))
    whole = np.array(attention.causal_attention(q, k, v, scale=0.25))
    monkeypatch.setattr(attention, "SCORE_BYTES", 4 * 2 * 4 * 37 * 5)
    assert np.abs(np.array(attention.causal_attention(q, k, v, scale=0.25)) - whole).max() < 1e-6


def test_the_fast_silu_equals_the_plain_one() -> None:
    x = np.linspace(-100, 100, 20_001, dtype=np.float32)
    wide = x.astype(np.float64)
    assert np.abs(np.array(silu(mx.array(x))) - wide / (1 + np.exp(-wide))).max() < 2e-6


def exact_attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> NDArray[np.float64]:
    groups = q.shape[1] // k.shape[1]
    q64 = np.array(q, np.float64)
    k64, v64 = (np.repeat(np.array(x, np.float64), groups, axis=1) for x in (k, v))
    length, keys = q.shape[2], k.shape[2]
    scores = q64 @ k64.swapaxes(-1, -2) * scale
    scores[..., np.triu(np.ones((length, keys), dtype=bool), keys - length + 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    attended: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True) @ v64
    return attended


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("before", [0, 7])
@pytest.mark.parametrize("length", [1, 30, 128, 129, 300])
def test_attention_by_hand_is_as_exact_as_the_fused_one(length: int, before: int, size: int) -> None:
    q, k, v = (
        size * mx.random.normal((2, heads, tokens, 16), key=mx.random.key(heads + tokens))
        for heads, tokens in ((6, length), (2, length + before), (2, length + before))
    )
    exact = exact_attention(q, k, v, 0.25)
    fused = np.abs(np.array(attention._fused_causal(q, k, v, 0.25)) - exact).max()
    assert np.abs(np.array(attention.causal_attention(q, k, v, scale=0.25)) - exact).max() < 3 * fused + 1e-6


def test_pieces_and_lanes_change_nothing(encoders: tuple[Encoder, Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    fast, plain = encoders
    rows = ids_of([f"{'word ' * (place * 7 % 40)}{place}" for place in range(60)])
    last, mean = unit(plain.encode(rows, "last")), unit(plain.encode(rows, "mean"))
    for largest, lanes in ((16, 1), (64, 2), (512, 3), (10**6, 2)):
        monkeypatch.setattr("mlx_qwen_embeddings.compute.encoder.SMALLEST_PIECE", 16)
        monkeypatch.setattr("mlx_qwen_embeddings.compute.encoder.LARGEST_PIECE", largest)
        monkeypatch.setattr(fast._lanes, "number", lanes)
        assert np.abs(unit(fast.encode(rows, "last")) - last).max() < 1e-6
        assert np.abs(unit(fast.encode(rows, "mean")) - mean).max() < 1e-6


def test_a_lone_text_is_padded_and_the_padding_counted(encoders: tuple[Encoder, Encoder]) -> None:
    fast, plain = encoders
    for length in (1, 15, 16, 17):
        row = np.arange(5, 5 + length, dtype=np.int32)
        found = fast.encode([row], "last")
        assert fast.padding == -length % 16
        assert np.abs(unit(found) - unit(plain.encode([row], "last"))).max() < 1e-6
