"""Forks of a busy process: the child computes right vectors, and the parent's calls complete."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.engine import worker
from mlx_qwen_embeddings.engine.batch import BatchEncoder
from mlx_qwen_embeddings.errors import EngineClosedError
from tests.support.fake_encoder import PATIENCE, WatchedEncoder
from tests.support.forking import Child

if not hasattr(os, "fork") or mx.is_available(mx.gpu):
    pytest.skip("this system does not fork, or MLX holds a GPU context, which does not survive it", allow_module_level=True)

Vectors = NDArray[np.float32]

TEXTS = ["The cat sat on the mat.", "Prices rose in May, for the third month in a row.", "", "A quiet light over water"]


@pytest.fixture
def engine() -> Iterator[EmbeddingEngine]:
    # Without a cache every call computes.
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


@pytest.fixture(scope="module")
def wanted() -> Vectors:
    with EmbeddingEngine("nano") as engine:
        return engine.embed_documents(TEXTS)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def assert_same(vectors: Vectors, wanted: Vectors) -> None:
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-5)


def embed_with_a_new_engine(text: str) -> Vectors:
    return EmbeddingEngine("nano").embed_query(text)


def wait_for_fork(engine: EmbeddingEngine) -> None:
    """Wait until a fork waits for the batch being computed."""
    waiting = engine._model.worker
    with waiting._changed:
        for _ in range(int(PATIENCE * 200)):
            if waiting._changed.wait_for(waiting._turnstile.locked, 0.005):
                return
    pytest.fail("no fork waits for the batch")


def test_while_other_threads_embed(engine: EmbeddingEngine, pool: ThreadPoolExecutor, wanted: Vectors) -> None:
    enough = threading.Event()

    def embed() -> list[Vectors]:
        found = [engine.embed_documents(TEXTS)]
        while not enough.is_set():
            found.append(engine.embed_documents(TEXTS))
        return found

    embedding = [pool.submit(embed) for _ in range(2)]
    try:
        children = [Child(lambda: engine.embed_documents(TEXTS)) for _ in range(6)]
        of_children = [child.result() for child in children]
    finally:
        enough.set()
    for vectors in [*of_children, *(vectors for future in embedding for vectors in future.result(PATIENCE))]:
        assert_same(vectors, wanted)


def test_from_several_threads_at_once(engine: EmbeddingEngine, wanted: Vectors) -> None:
    barrier = threading.Barrier(4)
    found: list[Vectors] = []

    def fork() -> None:
        barrier.wait(PATIENCE)
        child = Child(lambda: engine.embed_documents(TEXTS))
        found.extend([engine.embed_documents(TEXTS), child.result()])

    # Not a pool: in a child forked by one of its threads, its clean-up would join the very thread it runs in.
    threads = [threading.Thread(target=fork) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert len(found) == 8
    for vectors in found:
        assert_same(vectors, wanted)


def test_in_the_middle_of_a_batch(engine: EmbeddingEngine, pool: ThreadPoolExecutor, wanted: Vectors) -> None:
    encoder = WatchedEncoder(engine)
    with encoder.held():
        calls = [pool.submit(engine.embed_documents, TEXTS)]
        encoder.begun()
        calls.append(pool.submit(engine.embed_documents, TEXTS))  # waits in the queue
        released = pool.submit(let_go_for_a_fork, engine, encoder)
        child = Child(lambda: (engine.stats().queued_requests, engine.embed_documents(TEXTS)))
        assert released.result(PATIENCE) is None
    queued, vectors = child.result()
    assert queued == 0  # the parent's calls stay in the parent
    assert_same(vectors, wanted)
    for call in calls:
        assert_same(call.result(PATIENCE), wanted)


def let_go_for_a_fork(engine: EmbeddingEngine, encoder: WatchedEncoder) -> None:
    wait_for_fork(engine)
    encoder._held = False
    encoder._let_go.release()


def test_while_the_model_is_loaded(engine: EmbeddingEngine, pool: ThreadPoolExecutor, wanted: Vectors) -> None:
    begun, go_on = threading.Event(), threading.Event()
    load = engine._model.worker._open_encoder

    def slowly() -> BatchEncoder:
        begun.set()
        assert go_on.wait(PATIENCE)
        return load()

    engine._model.worker._open_encoder = slowly
    call = pool.submit(engine.embed_documents, TEXTS)
    assert begun.wait(PATIENCE)

    def go_on_for_a_fork() -> None:
        wait_for_fork(engine)
        go_on.set()

    pool.submit(go_on_for_a_fork)
    child = Child(lambda: engine.embed_documents(TEXTS))
    assert_same(child.result(), wanted)
    assert_same(call.result(PATIENCE), wanted)


def test_right_after_the_first_use_began(pool: ThreadPoolExecutor, wanted: Vectors) -> None:
    for _ in range(3):
        with EmbeddingEngine("nano", cache_bytes=0) as engine:
            call: Future[Vectors] = pool.submit(engine.embed_documents, TEXTS)
            child = Child(partial(engine.embed_documents, TEXTS))
            assert_same(child.result(), wanted)
            assert_same(call.result(PATIENCE), wanted)


def test_a_batch_that_does_not_end_makes_the_child_refuse(
    engine: EmbeddingEngine, pool: ThreadPoolExecutor, wanted: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "JOIN_SECONDS", 0.05)
    encoder = WatchedEncoder(engine)
    with encoder.held():
        call = pool.submit(engine.embed_documents, TEXTS)
        encoder.begun()
        for refusing in (engine.embed_query, embed_with_a_new_engine):
            with pytest.raises(EngineClosedError, match=r"forked while a batch ran.*get_context\('spawn'\)"):
                Child(partial(refusing, "lost")).result()
    assert_same(call.result(PATIENCE), wanted)
    assert_same(engine.embed_documents(TEXTS), wanted)


def test_a_stream_begun_before_the_fork(engine: EmbeddingEngine, wanted: Vectors) -> None:
    stream = engine.stream_documents(TEXTS, block_size=1)
    first = next(stream)
    child = Child(lambda: list(stream))
    rest = list(stream)
    assert_same(np.concatenate([first, *rest]), wanted)
    assert_same(np.concatenate([first, *child.result()]), wanted)


def test_an_engine_on_a_gpu_makes_the_child_refuse(engine: EmbeddingEngine, wanted: Vectors) -> None:
    encoder = WatchedEncoder(engine)
    engine.warmup()
    encoder.survives_fork = False
    for refusing in (engine.embed_query, embed_with_a_new_engine):
        with pytest.raises(EngineClosedError, match=r"GPU context does not survive a fork.*get_context\('spawn'\)"):
            Child(partial(refusing, "lost")).result()
    assert_same(engine.embed_documents(TEXTS), wanted)


CTRL_C = """
import os, signal, threading
from mlx_qwen_embeddings import EmbeddingEngine

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background processes ignore it
engine = EmbeddingEngine("nano", cache_path={cache!r})
wanted = engine.embed_documents(["a"])
door = engine._model.cache._file._writer
held, done = threading.Event(), threading.Event()

def write():
    with door.lock:  # as if another process were writing
        held.set()
        done.wait(20)

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    done.set()

threading.Thread(target=write, daemon=True).start()
held.wait(20)
threading.Timer(0.5, interrupt).start()
try:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
except KeyboardInterrupt:
    pass
made = threading.Thread(target=lambda: EmbeddingEngine("nano"), daemon=True)
made.start()
made.join(20)
print(made.is_alive(), len(engine.embed_documents(["a", "b"], timeout=20)))
"""


def test_ctrl_c_while_a_fork_waits_leaves_nothing_locked(tmp_path: Path) -> None:
    program = CTRL_C.format(cache=str(tmp_path / "vectors.sqlite"))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stdout) == (0, "False 2\n"), ended.stderr
