"""A text's vector does not depend on what else is computed: other texts, other threads, small batches, async calls."""

import asyncio
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.options import Pooling

WORDS = ("the", "tide", "follows", "moon", "over", "grey", "water", "while", "boats", "wait", "near", "quiet", "light")
THREADS = 16


def mixed_texts(number: int = 101, longest: int = 400) -> list[str]:
    """Return distinct texts of 1 to ``longest`` tokens: the empty one first, then in no order of length."""
    draw = random.Random(7)
    lengths = [round(longest ** (step / (number - 2))) for step in range(number - 1)]
    draw.shuffle(lengths)
    # A number at the end, of one token a digit, makes them distinct.
    return ["", *(f"{' '.join(draw.choices(WORDS, k=length - 1))}{position}" for position, length in enumerate(lengths))]


TEXTS = mixed_texts()
FEW = slice(0, 30)
"""For tests in which a hundred texts would only cost time."""
Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddingEngine]:
    # Without a cache every call computes.
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(engine: EmbeddingEngine) -> Vectors:
    return np.concatenate([engine.embed_documents([text]) for text in TEXTS])


def assert_same(vectors: Vectors, alone: Vectors) -> None:
    np.testing.assert_allclose(vectors, alone, rtol=0, atol=1e-5)
    assert (vectors.astype(np.float64) * alone).sum(axis=1).min() >= 0.999999


def test_the_texts_are_of_mixed_lengths(engine: EmbeddingEngine) -> None:
    counts = engine.count_tokens(TEXTS)
    assert min(counts) == 1
    assert 390 <= max(counts) <= 410
    assert len(set(counts)) > 30


def test_among_a_hundred_others(engine: EmbeddingEngine, alone: Vectors) -> None:
    before = engine.stats()
    assert_same(engine.embed_documents(TEXTS), alone)
    after = engine.stats()
    assert after.batches - before.batches < len(TEXTS) / 4  # they did share batches
    assert after.cache_hits == 0


@pytest.mark.parametrize("batch_tokens", [1, 500, 1_000_000])
def test_in_batches_of_any_size(batch_tokens: int, alone: Vectors) -> None:
    with EmbeddingEngine("nano", cache_bytes=0, batch_tokens=batch_tokens) as engine:
        assert_same(engine.embed_documents(TEXTS[FEW]), alone[FEW])


async def test_awaited_one_by_one_and_together(engine: EmbeddingEngine, alone: Vectors) -> None:
    together = await engine.aembed_documents(TEXTS)
    single = await asyncio.gather(*(engine.aembed_documents([text]) for text in TEXTS[FEW]))
    assert_same(together, alone)
    assert_same(np.concatenate(single), alone[FEW])


def test_as_queries_without_a_prompt(engine: EmbeddingEngine, alone: Vectors) -> None:
    assert_same(engine.embed_queries(TEXTS[FEW], instruction=""), alone[FEW])


def test_streamed(engine: EmbeddingEngine, alone: Vectors) -> None:
    blocks = list(engine.stream_documents(iter(TEXTS[FEW]), block_size=7))
    assert_same(np.concatenate(blocks), alone[FEW])


def test_from_sixteen_threads_at_once(engine: EmbeddingEngine, alone: Vectors) -> None:
    barrier = threading.Barrier(THREADS)
    found: dict[int, Vectors] = {}

    def run(start: int) -> None:
        # Every thread has a different share in a different order, and the shares overlap.
        barrier.wait(timeout=30)
        found[start] = engine.embed_documents(TEXTS[start::THREADS] + TEXTS[:3])

    threads = [threading.Thread(target=run, args=(start,)) for start in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert len(found) == THREADS
    for start, vectors in found.items():
        assert_same(vectors, np.concatenate([alone[start::THREADS], alone[:3]]))


@pytest.mark.parametrize("pooling", ["mean", "max", "first"])
def test_in_every_pooling(pooling: Pooling, engine: EmbeddingEngine) -> None:
    single = np.concatenate([engine.embed_documents([text], pooling=pooling) for text in TEXTS[FEW]])
    assert_same(engine.embed_documents(TEXTS[FEW], pooling=pooling), single)
