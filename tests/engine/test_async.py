"""Asynchronous calls of an engine: results, shared batches, several event loops, cancellation, timeouts, threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.engine import call as module_of_calls
from mlx_qwen_embeddings.engine import drivers
from mlx_qwen_embeddings.engine import engine as module
from mlx_qwen_embeddings.engine.call import Call, Embedded
from mlx_qwen_embeddings.engine.drivers import Deadline
from mlx_qwen_embeddings.errors import EmbeddingTimeoutError, EngineClosedError, InputTooLongError
from mlx_qwen_embeddings.tokenization import TextTokenizer, Tokens
from tests.support.fake_encoder import PATIENCE, WatchedEncoder, wait_for_requests

TEXTS = [f"Passage {number}{' and so on' * (number % 5)}" for number in range(64)]

Vectors = NDArray[np.float32]


@pytest.fixture
def engine() -> Iterator[EmbeddingEngine]:
    # Without a cache every call computes.
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


@pytest.fixture
def encoder(engine: EmbeddingEngine) -> WatchedEncoder:
    return WatchedEncoder(engine)


@pytest.fixture(scope="module")
def wanted() -> Vectors:
    with EmbeddingEngine("nano") as engine:
        return engine.embed_documents(TEXTS)


def assert_same(left: Vectors | list[Vectors], right: Vectors) -> None:
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)


@asynccontextmanager
async def busy(engine: EmbeddingEngine, encoder: WatchedEncoder) -> AsyncIterator[None]:
    """Hold a batch for as long as the block lasts, so that calls made in it have to wait."""
    with encoder.held():
        first = asyncio.create_task(engine.aembed_query("holds back the next batch"))
        await asyncio.to_thread(encoder.begun)
        yield
    assert (await asyncio.wait_for(first, PATIENCE)).shape == (384,)


async def queued(engine: EmbeddingEngine, number: int) -> None:
    """Let the event loop run until this many requests are queued or being computed."""
    await asyncio.to_thread(wait_for_requests, engine, number)


async def test_async_methods_return_what_sync_methods_return(engine: EmbeddingEngine) -> None:
    cases: list[dict[str, Any]] = [
        {},
        {"dimensions": 64, "instruction": "Find it"},
        {"normalize": False, "pooling": "mean"},
    ]
    for options in cases:
        assert_same(await engine.aembed_documents(TEXTS[:6], **options), engine.embed_documents(TEXTS[:6], **options))
        assert_same(await engine.aembed_queries(TEXTS[:6], **options), engine.embed_queries(TEXTS[:6], **options))
        assert_same(await engine.aembed_query("one", **options), engine.embed_query("one", **options))
    assert (await engine.aembed_documents([], dimensions=64)).shape == (0, 64)


async def test_long_texts_are_tokenised_off_the_event_loop(engine: EmbeddingEngine) -> None:
    long = ["word " * 5000, "short"]
    assert_same(await engine.aembed_documents(long, max_length=64), engine.embed_documents(long, max_length=64))


async def test_async_methods_raise_what_sync_methods_raise(engine: EmbeddingEngine) -> None:
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string"):
        await engine.aembed_documents(["a", 1])  # type: ignore[list-item]
    with pytest.raises(InputTooLongError, match=r"texts\[0\] has"):
        await engine.aembed_query("a long text", max_length=2, truncate="error")
    engine.close()
    with pytest.raises(EngineClosedError):
        await engine.aembed_query("late")


async def test_concurrent_calls_share_batches(engine: EmbeddingEngine, encoder: WatchedEncoder, wanted: Vectors) -> None:
    async with busy(engine, encoder):
        calls = [asyncio.create_task(engine.aembed_documents([text])) for text in TEXTS]
        await queued(engine, 65)
    assert_same(np.concatenate(await asyncio.gather(*calls)), wanted)
    assert engine.stats().batches <= 1 + 4  # split by length only
    assert max(map(len, encoder.batches)) >= 16


async def test_the_event_loop_runs_while_a_call_waits(engine: EmbeddingEngine, encoder: WatchedEncoder) -> None:
    # The event loop itself releases the encoder: if it were blocked, the call would never end.
    with encoder.held():
        call = asyncio.create_task(engine.aembed_documents(TEXTS))
        await asyncio.to_thread(encoder.begun)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not call.done()
    assert (await call).shape == (64, 384)


def test_several_loops_in_several_threads(engine: EmbeddingEngine, wanted: Vectors) -> None:
    barrier = threading.Barrier(4)
    found: list[Vectors] = []

    async def embed() -> Vectors:
        rows = await asyncio.gather(*(engine.aembed_documents([text]) for text in TEXTS[:16]))
        return np.concatenate(rows)

    def loop() -> None:
        barrier.wait(PATIENCE)
        found.extend(asyncio.run(embed()) for _ in range(2))  # also one event loop after another

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert len(found) == 8
    for vectors in found:
        assert_same(vectors, wanted[:16])


# Calls that are given up


async def test_a_cancelled_call_frees_its_place_in_the_queue(
    engine: EmbeddingEngine, encoder: WatchedEncoder, wanted: Vectors
) -> None:
    async with busy(engine, encoder):
        gone = asyncio.create_task(engine.aembed_documents(TEXTS))
        kept = asyncio.create_task(engine.aembed_documents(TEXTS[:2]))
        await queued(engine, 3)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert engine.stats().queued_requests == 2
    assert_same(await kept, wanted[:2])
    assert sum(map(len, encoder.batches)) == 3


async def test_a_call_cancelled_during_its_batch_leaves_other_calls_right(
    engine: EmbeddingEngine, encoder: WatchedEncoder, wanted: Vectors
) -> None:
    async with busy(engine, encoder):
        gone = asyncio.create_task(engine.aembed_documents(TEXTS[:1]))
        kept = asyncio.create_task(engine.aembed_documents(TEXTS[5:6]))
        await queued(engine, 3)
        await asyncio.to_thread(encoder.step)
        assert len(encoder.batches[-1]) == 2
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert_same(await kept, wanted[5:6])
    assert_same(await engine.aembed_documents(TEXTS[:2]), wanted[:2])


async def test_a_failing_call_cancels_its_task_group(engine: EmbeddingEngine, encoder: WatchedEncoder) -> None:
    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.aembed_documents(TEXTS))
            await queued(engine, 2)
            await engine.aembed_documents([1])  # type: ignore[list-item]

    async with busy(engine, encoder):
        with pytest.RaisesGroup(TypeError):
            await together()
        assert engine.stats().queued_requests == 1


async def test_a_timeout_ends_the_wait(engine: EmbeddingEngine, encoder: WatchedEncoder) -> None:
    async with busy(engine, encoder):
        with pytest.raises(EmbeddingTimeoutError, match=r"timeout=0\.05 s"):
            await engine.aembed_documents(TEXTS, timeout=0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.aembed_documents(TEXTS), 0.05)
        assert engine.stats().queued_requests == 1
    assert (await engine.aembed_query("next", timeout=PATIENCE)).shape == (384,)
    assert sum(map(len, encoder.batches)) == 2


@asynccontextmanager
async def crowded(wanted: Vectors) -> AsyncIterator[EmbeddingEngine]:
    """Let four calls wait for room in the queue for as long as the block lasts; then they get their vectors."""
    with EmbeddingEngine("nano", cache_bytes=0, queue_tokens=1) as engine:
        async with busy(engine, WatchedEncoder(engine)):
            calls = [asyncio.create_task(engine.aembed_documents([text])) for text in TEXTS[:4]]
            for _ in range(100):
                await asyncio.sleep(0)
            yield engine
        assert_same(np.concatenate(await asyncio.gather(*calls)), wanted[:4])


async def test_a_full_queue_does_not_block_the_loop(wanted: Vectors) -> None:
    async with crowded(wanted) as engine:
        assert engine.stats().queued_requests == 1
        with pytest.raises(EmbeddingTimeoutError):
            await engine.aembed_query("no room", timeout=0.05)


async def test_long_prompts_count_for_what_the_loop_tokenises(
    engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    real = drivers.adrive

    async def adrive(call: Call, deadline: Deadline, *, inline: bool) -> Embedded:
        seen.append(inline)
        return await real(call, deadline, inline=inline)

    monkeypatch.setattr(module, "adrive", adrive)
    texts = [f"text {number}" for number in range(60)]
    for instruction in ("short", "long " * 90):
        await engine.aembed_queries(texts, instruction=instruction)
    assert seen == [True, False]


# Threads that the event loop shares with others

LONG = ["word " * 5000, "short"]
"""More than an event loop tokenises itself."""


async def test_calls_that_wait_for_room_leave_the_loops_threads_to_others(wanted: Vectors) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with crowded(wanted):
        assert await asyncio.wait_for(asyncio.to_thread(len, "free"), PATIENCE / 4) == 4


async def test_a_call_needs_none_of_the_loops_threads(engine: EmbeddingEngine) -> None:
    go = threading.Event()
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    taken = executor.submit(go.wait, PATIENCE)
    try:
        found = await asyncio.wait_for(engine.aembed_documents(LONG, max_length=64), PATIENCE / 2)
        assert not taken.done()
    finally:
        go.set()
    assert found.shape == (2, 384)


class HeldTokenizer:
    """Holds up what an engine tokenises until a test lets it go."""

    def __init__(self, engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self._real = engine._model.open().tokenizer.encode
        monkeypatch.setattr(TextTokenizer, "encode", self.encode)

    def encode(self, texts: Sequence[str], *, max_length: int) -> list[Tokens]:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        return self._real(texts, max_length=max_length)


async def test_the_timeout_holds_while_texts_are_tokenised(
    engine: EmbeddingEngine, encoder: WatchedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = HeldTokenizer(engine, monkeypatch)
    try:
        with pytest.raises(EmbeddingTimeoutError):
            await asyncio.wait_for(engine.aembed_documents(LONG, max_length=64, timeout=0.05), PATIENCE / 4)
        assert tokenizer.begun.is_set()
    finally:
        tokenizer.go.set()
    assert (await engine.aembed_query("next")).shape == (384,)
    assert engine.stats().queued_requests == 0
    assert encoder.batches == [[(encoder.batches[0][0][0], 2)]], "nothing was computed for the call that gave up"


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_the_deadline_is_checked_before_each_window(
    way: str, engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, tokenised = [0.0], list[int]()
    encode = engine._model.open().tokenizer.encode

    def slow(_: TextTokenizer, texts: Sequence[str], *, max_length: int) -> list[Tokens]:
        tokenised.append(len(texts))
        now[0] += 10.0
        return encode(texts, max_length=max_length)

    monkeypatch.setattr(TextTokenizer, "encode", slow)
    monkeypatch.setattr(drivers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module_of_calls, "WINDOW_TEXTS", 4)

    async def embed() -> None:
        if way == "sync":
            engine.embed_documents(TEXTS[:20], timeout=15)
        else:
            await engine.aembed_documents(TEXTS[:20], timeout=15)

    with pytest.raises(EmbeddingTimeoutError, match="timeout=15 s"):
        await embed()
    assert tokenised == [4, 4], "the time was up after the second of five windows"
