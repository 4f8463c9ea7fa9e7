"""Counters of an engine."""

import threading
from dataclasses import FrozenInstanceError

import pytest

from mlx_qwen_embeddings import EngineStats
from mlx_qwen_embeddings.stats import StatsCounter


def test_counts_add_up() -> None:
    counter = StatsCounter()
    counter.add(texts=2, tokens=10)
    counter.add(texts=3)
    counter.failed(ValueError("x"))
    counter.failed(ValueError("y"), 4)
    counter.failed(KeyError("z"))
    stats = counter.snapshot(queued_tokens=7)
    assert (stats.texts, stats.tokens, stats.queued_tokens, stats.batches) == (5, 10, 7, 0)
    assert stats.failures == {"ValueError": 5, "KeyError": 1}


def test_a_snapshot_stays_as_it_was() -> None:
    counter = StatsCounter()
    counter.failed(ValueError("x"))
    before = counter.snapshot()
    counter.add(texts=1)
    counter.failed(ValueError("x"))
    assert (before.texts, before.failures) == (0, {"ValueError": 1})
    with pytest.raises(FrozenInstanceError):
        before.texts = 1  # type: ignore[misc]


def test_time_adds_up_even_when_the_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.5, 10.0, 10.25])
    monkeypatch.setattr("mlx_qwen_embeddings.stats.time.perf_counter", lambda: next(moments))
    counter = StatsCounter()
    with counter.timed("compute_seconds"):
        pass
    with pytest.raises(ZeroDivisionError), counter.timed("compute_seconds"):
        _ = 1 / 0
    assert counter.snapshot().compute_seconds == 1.75


def test_an_unknown_field_is_an_error() -> None:
    counter = StatsCounter()
    counter.add(textes=1)
    with pytest.raises(TypeError, match="textes"):
        counter.snapshot()


@pytest.mark.parametrize(("tokens", "padding", "share"), [(0, 0, 0.0), (75, 25, 0.25), (10, 0, 0.0)])
def test_padding_share(tokens: int, padding: int, share: float) -> None:
    assert EngineStats(tokens=tokens, padding_tokens=padding).padding_share == share


def test_no_count_is_lost_between_threads() -> None:
    counter = StatsCounter()

    def count() -> None:
        for _ in range(5000):
            counter.add(texts=1)
            counter.failed(ValueError("x"))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = counter.snapshot()
    assert (stats.texts, stats.failures) == (20_000, {"ValueError": 20_000})
