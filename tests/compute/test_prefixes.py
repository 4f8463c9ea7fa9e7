"""Keys and values of prompts are kept between batches: only so many bytes, and never those of a failed prompt."""

import itertools
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute import encoder
from mlx_qwen_embeddings.compute.encoder import Encoder, _bytes
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.errors import EmbeddingFailedError
from mlx_qwen_embeddings.models import qwen3
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tokenization import Ids


@pytest.fixture
def made() -> Iterator[Encoder]:
    files = ModelFiles(NANO_FOLDER)
    made = Encoder(files, choose_backend())
    yield made
    made.release()


def prompt(first: int, length: int) -> Ids:
    return np.arange(first, first + length, dtype=np.int32)


def embed(made: Encoder, before: Ids) -> Any:
    return made.encode([np.append(before, number).astype(np.int32) for number in (7, 8)], "last", before)


def test_the_least_recently_used_prompt_is_dropped(made: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt(1000 * number, 40) for number in range(4)]
    embed(made, prompts[0])
    size = _bytes(next(iter(made._prompts.values())))
    assert size == 40 * 2 * 4 * 6 * 64 * 4  # keys and values of 4 layers with 6 heads of 64, in float32
    monkeypatch.setattr(encoder, "KEPT_PROMPT_BYTES", 3 * size)
    for before in (prompts[1], prompts[2], prompts[0], prompts[3]):
        embed(made, before)
    assert list(made._prompts) == [prompts[number].tobytes() for number in (2, 0, 3)]


def test_a_prompt_too_long_to_keep_drops_no_other(made: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = prompt(0, 40), prompt(1000, 400)
    embed(made, short)
    monkeypatch.setattr(encoder, "KEPT_PROMPT_BYTES", 5 * _bytes(next(iter(made._prompts.values()))))
    vectors = embed(made, long)
    assert list(made._prompts) == [short.tobytes()]
    plain = made.encode([np.append(long, number).astype(np.int32) for number in (7, 8)], "last")
    np.testing.assert_allclose(vectors, plain, atol=1e-4)


def test_a_failed_prompt_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        message = "[malloc] Unable to allocate 1 bytes."
        raise RuntimeError(message)

    texts, instruction = ["The cat sleeps.", "Tides follow the moon."], "Given a question, find the passage"
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        wanted = engine.embed_queries(texts)
        with monkeypatch.context() as patch:
            patch.setattr(qwen3.Model, "prefill", lambda *_: [(mx.zeros(1), mx.zeros(1))])
            patch.setattr(mx, "eval", fail)
            with pytest.raises(EmbeddingFailedError, match="Unable to allocate"):
                engine.embed_queries(texts, instruction=instruction)
        assert engine.embed_queries(texts, instruction=instruction).shape == wanted.shape
        found = engine.embed_queries(texts[:1], instruction=instruction)
    with EmbeddingEngine("nano", cache_bytes=0) as fresh:
        np.testing.assert_allclose(found, fresh.embed_queries(texts[:1], instruction=instruction), atol=1e-6)


def test_a_prompts_memory_is_checked_first(made: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_qwen_embeddings.compute.memory.WORTH_ASKING", 0)
    monkeypatch.setattr("mlx_qwen_embeddings.compute.memory.available_memory", lambda: 1)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 0)
    with pytest.raises(MemoryError, match="400 tokens at once need"):
        embed(made, prompt(0, 400))


def test_kept_prompts_of_equal_length_are_distinguished_by_their_tokens(made: Encoder) -> None:
    prompts = [prompt(1000 * number, 40) for number in range(3)]
    plain = [made.encode([np.append(before, number).astype(np.int32) for number in (7, 8)], "last") for before in prompts]
    for _ in range(2):  # computed first, then kept
        for before, wanted in zip(prompts, plain, strict=True):
            np.testing.assert_allclose(embed(made, before), wanted, atol=1e-4)
    assert len(made._prompts) == 3
    assert min(np.abs(one - other).max() for one, other in itertools.pairwise(plain)) > 0.1
