"""The same text gives the same vector whatever else runs: to the bit from the cache, within 1e-5 from the model."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from tests.support.same_vectors import TEXTS, assert_same

OTHERS = [f"Passage {number}{' and so on' * (number % 9)}" for number in range(200)]
ROUNDS = 6


@contextmanager
def noise(engine: EmbeddingEngine) -> Iterator[None]:
    """Let threads ask for these texts and others, in all kinds of calls."""
    enough = threading.Event()

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        while not enough.is_set():
            texts = draw.sample(OTHERS, draw.randint(1, 12)) + draw.sample(TEXTS, 2)
            engine.embed_documents(texts, pooling=draw.choice(["native", "native", "mean"]))

    running = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in running:
            thread.join(60)


def test_recomputed_among_other_calls_a_vector_is_the_same_within_rounding() -> None:
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        alone = engine.embed_documents(TEXTS)
        with noise(engine):
            found = [engine.embed_documents(TEXTS) for _ in range(ROUNDS)]
    for vectors in found:
        assert_same(vectors, alone)


@pytest.mark.parametrize("kept", [2**28, 0], ids=["memory and file", "file alone"])
def test_a_cached_vector_is_the_same_to_the_bit(kept: int, tmp_path: Path) -> None:
    with EmbeddingEngine("nano", cache_path=tmp_path, cache_bytes=kept) as engine:
        first = engine.embed_documents(TEXTS).tobytes()
        with noise(engine):
            assert {engine.embed_documents(TEXTS).tobytes() for _ in range(ROUNDS)} == {first}
    with EmbeddingEngine("nano", cache_path=tmp_path) as later:
        assert later.embed_documents(TEXTS).tobytes() == first
        assert later.stats().batches == 0


def test_another_process_computes_the_same_bytes() -> None:
    # Nothing about a vector depends on when or where it was made: no random number, no address, no set's order.
    code = """
import json, sys
from mlx_qwen_embeddings import EmbeddingEngine
with EmbeddingEngine("nano", cache_bytes=0) as engine:
    sys.stdout.buffer.write(engine.embed_documents(json.load(sys.stdin)).tobytes())
"""
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        here = engine.embed_documents(TEXTS).tobytes()
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(TEXTS).encode(),
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            timeout=100,
            check=True,
        )
        assert there.stdout == here
