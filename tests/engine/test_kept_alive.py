"""Memory that is no longer needed is freed: arrays of a failed batch, finished windows of a running call."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.engine import call as calls
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.tokenization import Ids
from tests.support.fake_encoder import Caller, FakeEncoder, make_worker


@contextmanager
def no_collection() -> Iterator[None]:
    """Free only what nothing refers to, not reference cycles."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Work:
    """Stands for a large array."""


class OutOfMemory(FakeEncoder):
    """Takes memory for each batch, and has enough for one text only."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: weakref.WeakSet[Work] = weakref.WeakSet()
        self.alive: list[int] = []  # works in memory when each batch began

    def encode(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None = None) -> NDArray[np.float32]:
        self.alive.append(len(self.taken))
        work = Work()
        self.taken.add(work)
        if len(rows) > 1:
            message = "[malloc] Unable to allocate"
            raise RuntimeError(message)
        return super().encode(rows, pooling, prompt)


def test_a_failed_batch_is_freed_before_its_halves_run() -> None:
    encoder = OutOfMemory()
    worker = make_worker(encoder)
    with no_collection():
        caller = Caller([(number, 3) for number in range(16)]).submit(worker)
        assert caller.right
    worker.close()
    assert len(encoder.alive) == 31
    assert set(encoder.alive) == {0}


def test_a_kept_error_does_not_keep_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_qwen_embeddings.compute import encoder

    def fail(self: Any, *_: object) -> None:
        model = self._model  # as the frames of a layer do
        message = f"{type(model).__name__} failed"
        raise ValueError(message)

    monkeypatch.setattr(encoder.Encoder, "_run", fail)
    kept = []
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        try:
            engine.embed_documents(["a"])
        except Exception as error:  # noqa: BLE001 - any
            kept.append(error)
        loaded = engine._model.worker._encoder
        assert isinstance(loaded, encoder.Encoder)
        model = weakref.ref(loaded._model)
        del loaded
    gc.collect()
    assert "Model failed" in str(kept[0])
    assert model() is None


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_call_frees_windows_that_are_done(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Window(calls.Window):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            nonlocal most
            super().__init__(*arguments, **named)
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr(calls, "WINDOW_TEXTS", 4)
    monkeypatch.setattr(calls, "Window", Window)
    texts = [f"text {number}" for number in range(120)]
    with EmbeddingEngine("nano", cache_bytes=0) as engine, no_collection():
        engine.warmup()
        found = engine.embed_documents(texts) if way == "sync" else await engine.aembed_documents(texts)
        assert len(found) == 120
    assert most <= calls.WINDOWS_AHEAD + 4
