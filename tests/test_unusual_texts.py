"""Texts that break other libraries, through the real engine: each has the vector that numpy computes for it."""

import json
import math

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.errors import InputTooLongError, InvalidTextError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.checkpoints import NANO_END, Weights
from tests.support.references import pooled, qwen3, unpack

MEGABYTE = 2**20
END, LIMIT = NANO_END, 2048

TEXTS = {
    "empty": "",
    "NUL alone": "\0",
    "NUL inside": "before\0after",
    "control characters": "\x01\x02\x1b[31m\x7f\r\v\f",
    "spaces": " \t\n\u00a0\u2003\u3000 ",
    "emoji": "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f3f3\ufe0f\u200d\U0001f308",
    "Hebrew": "שלום עולם",
    "Arabic": "مرحبا بالعالم، كيف حالك؟",
    "both directions": "abc \u202eאבג\u202c 123 (ד)",
    "combining marks": "e\u0301 a\u0308\u0323 Z\u0351\u0343\u036b",
    "no character": "\ufffe\uffff\ufdd0",
    "private and astral": "\ue000\U0010ffff\U0002070e",
    "byte order mark": "\ufefftext",
    "Chinese": "海水随月亮涨落。",
    "special tokens by name": "<|endoftext|> and <|im_end|>",
}


@pytest.fixture(scope="module")
def weights() -> Weights:
    loaded = mx.load(str(NANO_FOLDER / "model.safetensors"))
    assert isinstance(loaded, dict)
    stored = {name: np.array(array) for name, array in loaded.items()}
    plain = {name: array for name, array in stored.items() if array.dtype != np.uint32}
    for layer in [name.removesuffix(".scales") for name in stored if name.endswith(".scales")]:
        scales, biases = plain.pop(f"{layer}.scales"), plain.pop(f"{layer}.biases")
        packed = stored[f"{layer}.weight"]
        bits = 5 if layer == "embed_tokens" else 8
        scales, biases = scales.astype(np.float32), biases.astype(np.float32)
        plain[f"{layer}.weight"] = unpack(packed, scales, biases, mode="affine", bits=bits).astype(np.float32)
    return plain


def expected(weights: Weights, ids: list[int]) -> NDArray[np.float64]:
    config = json.loads((NANO_FOLDER / "config.json").read_text("utf-8"))
    return pooled(qwen3(weights, config, ids), "last")


def ids_of(text: str) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(NANO_FOLDER / "tokenizer.json")).encode(text).ids
    return ids


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_the_vector_is_what_numpy_computes(text: str, engine: EmbeddingEngine, weights: Weights) -> None:
    ids = ids_of(text)
    assert ids[-1] == END
    assert engine.count_tokens([text]) == [len(ids)]
    np.testing.assert_allclose(engine.embed_documents([text])[0], expected(weights, ids), atol=5e-6)


def test_all_texts_in_one_call_have_the_same_vectors() -> None:
    texts = list(TEXTS.values())
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        together = engine.embed_documents(texts)
        alone = np.concatenate([engine.embed_documents([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    ["the tide follows the moon. " * (MEGABYTE // 27), "." * MEGABYTE, "海" * (MEGABYTE // 3), "שלום " * (MEGABYTE // 9)],
    ids=["prose", "signs", "Chinese", "Hebrew"],
)
def test_a_megabyte_in_one_string_is_its_first_tokens_and_the_end(
    text: str, engine: EmbeddingEngine, weights: Weights
) -> None:
    ids, before = ids_of(text), engine.stats().truncations
    assert len(ids) > 100_000
    vector = engine.embed_documents([text], max_length=100)[0]
    assert engine.stats().truncations == before + 1
    np.testing.assert_allclose(vector, expected(weights, [*ids[:99], END]), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("x" * MEGABYTE, 2), ("\0" * MEGABYTE, 1), ("\U0001f600" * (MEGABYTE // 4), 2)],
    ids=["one word", "NUL", "emoji"],
)
def test_a_megabyte_without_words_is_one_unknown_token_or_none(
    text: str, tokens: int, engine: EmbeddingEngine, weights: Weights
) -> None:
    ids = ids_of(text)
    assert len(ids) == tokens
    np.testing.assert_allclose(engine.embed_documents([text])[0], expected(weights, ids), atol=1e-5)


def test_a_megabyte_is_refused_where_a_cut_is_not_allowed(engine: EmbeddingEngine) -> None:
    with pytest.raises(InputTooLongError, match=rf"texts\[1\] has \d{{7}} tokens, more than max_length={LIMIT}: split it"):
        engine.embed_documents(["short", "." * MEGABYTE], truncate="error")


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [("\ud800", "D800", 0), ("half of \ud83d an emoji", "D83D", 8), ("from bytes \udcff", "DCFF", 11)],
    ids=["alone", "high", "low"],
)
def test_a_lone_surrogate_is_named_and_harms_no_other_call(
    text: str, code: str, place: int, engine: EmbeddingEngine
) -> None:
    message = rf"texts\[1\] holds a lone surrogate \(U\+{code}\) at character {place}, .*text\.encode\('utf-8', 'replace'\)"
    for call in (engine.embed_documents, engine.embed_queries, engine.count_tokens):
        with pytest.raises(InvalidTextError, match=message):
            call(["fine", text])
    assert math.isclose(np.linalg.norm(engine.embed_query("fine")), 1, abs_tol=1e-6)
    mended = text.encode("utf-8", "replace").decode()
    assert np.isfinite(engine.embed_documents([mended])).all()
