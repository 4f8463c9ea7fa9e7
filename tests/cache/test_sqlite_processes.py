"""The persistent cache with threads, processes, forks and kills."""

import asyncio
import contextlib
import multiprocessing
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from tests.kills.cache import BATCH, examine, kill_writers, loop
from tests.support.cached_vectors import make, row, there

pytestmark = pytest.mark.heavy

PATIENCE = 60


def write_and_read(path: Path, barrier: "threading.Barrier", start: int) -> int:
    """Write many batches while reading those of all writers; return how many of its own are found at the end."""
    with closing(make(path)) as cache:
        barrier.wait(PATIENCE)
        for number in range(start, start + 200, 10):
            cache.put_many(row(place) for place in range(number, number + 10))
            there(cache, range(0, 800, 7))
        return len(there(cache, range(start, start + 200)))


def in_process(path: Path, barrier: "threading.Barrier", start: int) -> None:
    sys.exit(0 if write_and_read(path, barrier, start) == 200 else 1)


def test_kills_at_random_moments_lose_and_break_nothing(tmp_path: Path) -> None:
    committed, lost = loop(tmp_path / "vectors.sqlite", kills=6)
    assert committed >= 12 * BATCH
    assert lost == 0


def test_the_kill_test_detects_a_loss(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    (committed,) = kill_writers(path, [0], 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("DELETE FROM vectors WHERE id = 1")
        raw.execute("DELETE FROM entries WHERE id = 1")
    assert examine(path, [committed]) == 1


def test_processes_that_create_the_file_at_once_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    path = tmp_path / "vectors.sqlite"
    processes = [context.Process(target=in_process, args=(path, barrier, start)) for start in range(0, 800, 200)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * 4
    with closing(make(path)) as cache:
        assert there(cache, range(800)) == list(range(800))


def test_threads_share_one_cache(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)
    with closing(make(tmp_path / "vectors.sqlite")) as cache, ThreadPoolExecutor(4) as pool:

        def use(start: int) -> int:
            barrier.wait(PATIENCE)
            for number in range(start, start + 200, 10):
                cache.put_many(row(place) for place in range(number, number + 10))
                there(cache, range(0, 800, 7))
            return len(there(cache, range(start, start + 200)))

        assert list(pool.map(use, range(0, 800, 200))) == [200] * 4


def fork(child: Callable[[], bool]) -> int:
    """Run a function in a forked child; return its exit status, 0 when the function returned True."""
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            status = 0 if child() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_open(path: Path) -> bool:
    """Return whether this process has a file open."""
    wanted = path.stat()
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_no_connection_crosses_a_fork_and_both_sides_continue(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    with closing(make(path)) as cache:
        cache.put_many([row(1)])
        assert there(cache, [1]) == [1]

        def child() -> bool:
            inherited = is_open(path)
            cache.put_many([row(2)])
            return not inherited and is_open(path) and there(cache, [1, 2, 3]) == [1, 2]

        assert fork(child) == 0
        cache.put_many([row(3)])
        assert there(cache, [1, 2, 3]) == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_threads_write_can_use_the_cache(tmp_path: Path) -> None:
    cache = make(tmp_path / "vectors.sqlite")
    stop = threading.Event()

    def write() -> None:
        number = 10
        while not stop.is_set():
            cache.put_many([row(number)])
            there(cache, [number, 1])
            number += 1

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()

    def child() -> bool:
        cache.put_many([row(1)])
        return there(cache, [1]) == [1]

    try:
        assert [fork(child) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        for writer in writers:
            writer.join(PATIENCE)
    assert there(cache, [1]) == [1]
    cache.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_engine_shares_the_file(tmp_path: Path) -> None:
    with EmbeddingEngine("nano", cache_path=tmp_path, cache_bytes=0, device="cpu") as engine:
        before = engine.embed_documents(["parent"])

        def child() -> bool:
            same = (engine.embed_documents(["parent"]) == before).all()
            engine.embed_documents(["child"])
            return bool(same) and engine.stats().persistent_hits == 1

        assert fork(child) == 0
        engine.embed_documents(["child"])
        assert (engine.stats().persistent_hits, engine.stats().batches) == (1, 1)


async def test_no_event_loop_waits_for_the_file(tmp_path: Path) -> None:
    with EmbeddingEngine("nano", cache_path=tmp_path) as engine:
        await engine.aembed_query("known")
        reader = engine._model.cache._file._reader  # type: ignore[attr-defined]
        held, turned = threading.Event(), threading.Event()

        def hold() -> bool:
            with reader:
                held.set()
                return turned.wait(PATIENCE)

        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(hold)
            assert held.wait(PATIENCE)
            call = asyncio.create_task(engine.aembed_query("new"))
            await asyncio.sleep(0)  # the call starts
            assert not call.done()
            turned.set()  # set by the loop, which would not get here in time if it were blocked
            assert (await asyncio.wait_for(call, PATIENCE)).shape == (384,)
            assert holding.result(PATIENCE)
