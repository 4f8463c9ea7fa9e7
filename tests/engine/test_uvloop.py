"""Asynchronous calls on uvloop's event loop: concurrent, cancelled, timed out, on several loops."""

import asyncio
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.errors import EmbeddingTimeoutError
from tests.support.fake_encoder import PATIENCE, WatchedEncoder, wait_for_requests
from tests.support.same_vectors import TEXTS, assert_same

if sys.platform == "win32":
    pytest.skip("uvloop is POSIX", allow_module_level=True)

import uvloop


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
        return runner.run(asyncio.wait_for(main, 3 * PATIENCE))


async def each(engine: EmbeddingEngine) -> Any:
    return np.concatenate(await asyncio.gather(*(engine.aembed_documents([text]) for text in TEXTS)))


def test_calls_at_once_on_several_loops() -> None:
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        wanted = engine.embed_documents(TEXTS)
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(run(each(engine)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE)
        assert len(found) == 4
        for vectors in found:
            assert_same(vectors, wanted)


def test_cancelled_and_timed_out_calls_free_their_places() -> None:
    async def main() -> None:
        with encoder.held():
            first = asyncio.create_task(engine.aembed_query("holds back the next batch"))
            await asyncio.to_thread(encoder.begun)
            gone = asyncio.create_task(engine.aembed_documents(TEXTS))
            kept = asyncio.create_task(engine.aembed_documents(TEXTS[:2]))
            await asyncio.to_thread(wait_for_requests, engine, 3)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            with pytest.raises(EmbeddingTimeoutError):
                await engine.aembed_documents(TEXTS, timeout=0.05)
            assert engine.stats().queued_requests == 2
        assert (await first).shape == (384,)
        assert (await kept).shape == (2, 384)

    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        encoder = WatchedEncoder(engine)
        run(main())
