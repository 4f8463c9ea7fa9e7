"""``fit``: what it chooses among trials, and that its choice for a real model keeps the limits."""

import re

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.compute.memory import resident_memory
from mlx_qwen_embeddings.tools.fit import Trial, _choose, fit, parse_bytes

pytestmark = pytest.mark.heavy

TRIALS = [
    Trial(2, 128, 0.1, 1280, 10**9),
    Trial(2, 512, 0.3, 1700, 11 * 10**8),
    Trial(2, 2048, 1.18, 1735, 2 * 10**9),
    Trial(2, 4096, 2.0, 2048, 4 * 10**9),
    Trial(1, 128, 0.2, 640, 8 * 10**8),
]
QUERIES = {2: 0.05, 1: 0.1}


@pytest.mark.parametrize(
    ("most", "target", "lanes", "tokens"),
    [
        (None, None, 2, 4096),  # the fastest
        (3 * 10**9, None, 2, 512),  # 2,048 tokens are faster, but by too little to be worth the wait
        (None, 200, 2, 128),
        (9 * 10**8, None, 1, 128),
    ],
)
def test_the_fastest_within_the_limits_is_chosen(most: int | None, target: float | None, lanes: int, tokens: int) -> None:
    best = _choose(TRIALS, QUERIES, most, target)
    assert (best.lanes, best.batch_tokens) == (lanes, tokens)


def test_limits_that_nothing_keeps_are_refused_with_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"at least 0\.80 GB .* max_memory"):
        _choose(TRIALS, QUERIES, 10**8, None)
    with pytest.raises(ValueError, match=r"at least 150 ms .* target_latency_ms=100"):
        _choose(TRIALS, QUERIES, None, 100)


@pytest.mark.parametrize(
    ("written", "amount"),
    [("2GB", 2 * 10**9), ("512MiB", 512 * 2**20), ("1.5 gib", 3 * 2**29), (4096, 4096), ("2g", 2 * 10**9), ("100k", 10**5)],
)
def test_amounts_of_memory(written: str | int, amount: int) -> None:
    assert parse_bytes(written) == amount


@pytest.mark.parametrize("written", ["", "lots", "2 XB", "-1GB", "GB", "2i"])
def test_other_strings_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(written))):
        parse_bytes(written)


def test_an_engine_with_the_chosen_settings_keeps_the_limit() -> None:
    most = resident_memory() + 2**30
    found = fit("nano", max_memory=most, target_latency_ms=60_000, device="cpu", seconds=1.0)
    settings = found.settings
    assert f"batch_tokens={settings.batch_tokens}, lanes={settings.lanes}" in str(found)
    assert "tokens per second" in str(found)
    assert settings.cache_bytes <= 256 * 2**20
    with EmbeddingEngine(settings=settings) as engine:
        vectors = engine.embed_documents([f"line {number} of a file" for number in range(500)])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert resident_memory() < most


def test_given_settings_stay() -> None:
    found = fit("nano", batch_tokens=300, lanes=1, cache_bytes=12_345, device="cpu", seconds=0.1)
    assert {(trial.lanes, trial.batch_tokens) for trial in found.trials} == {(1, 300)}
    assert (found.settings.batch_tokens, found.settings.lanes, found.settings.cache_bytes) == (300, 1, 12_345)
    assert found.settings.dtype == "float32"


def test_a_model_that_does_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="max_memory"):
        fit("nano", max_memory="1MB", device="cpu", seconds=0.1)
