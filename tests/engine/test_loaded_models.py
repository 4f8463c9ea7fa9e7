"""Shared models in memory: up to a limit, the least recently used retires, none is freed in use, each is loaded once."""

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings
from mlx_qwen_embeddings.compute.memory import resident_memory
from mlx_qwen_embeddings.engine import shared
from mlx_qwen_embeddings.engine.shared import LoadedModels, Place
from mlx_qwen_embeddings.engine.worker import Worker
from mlx_qwen_embeddings.errors import EmbeddingTimeoutError, ModelLoadError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.stats import StatsCounter
from tests.support.fake_encoder import PATIENCE, Caller, FakeEncoder, wait_for_requests
from tests.support.forking import Child


class Model:
    """A worker with a place in memory, whose loads are counted."""

    def __init__(self, models: LoadedModels, stored_bytes: int = 100, **limits: Any) -> None:
        self.encoder = FakeEncoder()
        self.loads = 0
        self.worker = Worker(self._open, batch_tokens=100, queue_tokens=10**9, stats=StatsCounter())
        self.worker.place = Place(models, EngineSettings(**limits), lambda: stored_bytes)

    def _open(self) -> FakeEncoder:
        self.loads += 1
        return self.encoder

    def ask(self, number: int = 1) -> Caller:
        return Caller([(number, 3)]).submit(self.worker)

    @property
    def is_loaded(self) -> bool:
        return self.worker.model_bytes > 0


@pytest.fixture
def models() -> LoadedModels:
    return LoadedModels()


@contextlib.contextmanager
def several(models: LoadedModels, count: int, **limits: Any) -> Iterator[list[Model]]:
    made = [Model(models, **limits) for _ in range(count)]
    try:
        yield made
    finally:
        for model in made:
            model.worker.close(PATIENCE)
    assert models.holders == set()


# With workers whose batches the tests control


def test_the_least_recently_used_model_makes_room_and_comes_back(models: LoadedModels) -> None:
    with several(models, 3) as (a, b, c):
        for model in (a, b, a, c):
            assert model.ask().right
        assert [model.is_loaded for model in (a, b, c)] == [True, False, True]
        assert b.encoder.released_by is not None
        assert b.ask().right
        assert [model.is_loaded for model in (a, b, c)] == [False, True, True]
        assert [model.loads for model in (a, b, c)] == [1, 2, 1]


def test_up_to_the_limit_no_model_is_freed(models: LoadedModels) -> None:
    with several(models, 3, max_loaded_models=3) as made:
        for model in made * 3:
            assert model.ask().right
        assert [model.loads for model in made] == [1, 1, 1]


def test_a_model_in_use_is_waited_for(models: LoadedModels) -> None:
    with several(models, 2, max_loaded_models=1) as (a, b):
        with a.encoder.held():
            first = a.ask(1)
            a.encoder.begun()
            second = a.ask(2)
            waiting = b.ask(3)
            a.encoder.step()  # the first is done, the second is being computed
            assert not waiting.request.future.done()
            assert a.is_loaded
        assert first.right
        assert second.right
        assert waiting.right
        assert (a.loads, b.loads, a.is_loaded) == (1, 1, False)


def test_a_model_in_use_does_not_retire(models: LoadedModels) -> None:
    with several(models, 1) as (a,):
        assert not a.worker.retire()  # nothing is loaded
        with a.encoder.held():
            caller = a.ask()
            a.encoder.begun()
            assert not a.worker.retire()
        assert caller.right
        with a.worker._changed:
            while a.worker.queue[0]:
                a.worker._changed.wait(PATIENCE)
        assert a.worker.retire()


def test_a_worker_that_waits_for_its_place_can_be_closed(models: LoadedModels) -> None:
    with several(models, 2, max_loaded_models=1) as (a, b):
        with a.encoder.held():
            served = a.ask()
            a.encoder.begun()
            waiting = b.ask()
            (thread,) = b.worker._threads
            b.worker.close(PATIENCE)
            assert type(waiting.error()).__name__ == "EngineClosedError"
            assert not thread.is_alive()
        assert served.right
        assert b.loads == 0


def test_work_that_comes_before_the_model_is_freed_keeps_it(models: LoadedModels) -> None:
    with several(models, 1) as (a,):
        assert a.ask().right
        with a.worker._changed:  # its thread cannot notice yet
            assert a.worker.retire()
            caller = a.ask(2)
        assert caller.right
        assert (a.loads, a.is_loaded) == (1, True)


def test_work_that_comes_while_the_model_is_freed_loads_it_again(models: LoadedModels) -> None:
    with several(models, 1) as (a,):
        assert a.ask().right
        freeing, go_on = threading.Event(), threading.Event()

        def release() -> None:
            freeing.set()
            assert go_on.wait(PATIENCE)

        a.encoder.release = release  # type: ignore[method-assign]
        assert a.worker.retire()
        assert freeing.wait(PATIENCE)
        caller = a.ask(2)
        assert not a.worker.retire()
        go_on.set()
        assert caller.right
        assert a.loads == 2


def test_a_failed_load_gives_its_place_back(models: LoadedModels) -> None:
    with several(models, 2, max_loaded_models=1) as (a, b):
        a.worker._open_encoder = lambda: 1 / 0  # type: ignore[assignment, return-value]
        assert isinstance(a.ask().error(), ZeroDivisionError)
        assert b.ask().right


def test_the_limit_can_be_in_bytes(models: LoadedModels) -> None:
    with several(models, 3, max_loaded_models=9, max_model_bytes=200) as (a, b, c):
        for model in (a, b, c):
            assert model.ask().right
        assert [model.is_loaded for model in (a, b, c)] == [False, True, True]


def test_a_model_larger_than_its_files_makes_others_retire(models: LoadedModels) -> None:
    with several(models, 2, stored_bytes=1, max_loaded_models=9, max_model_bytes=150) as (a, b):
        assert a.ask().right
        (thread,) = a.worker._threads
        assert b.ask().right
        thread.join(PATIENCE)
        assert [model.is_loaded for model in (a, b)] == [False, True]


def test_a_model_larger_than_the_limit_is_loaded_alone(models: LoadedModels) -> None:
    with several(models, 2, max_loaded_models=9, max_model_bytes=50) as (a, b):
        for model in (a, b, a):
            assert model.ask().right
        assert [model.is_loaded for model in (a, b)] == [True, False]


def test_all_callers_are_served_when_models_do_not_all_fit(models: LoadedModels) -> None:
    barrier = threading.Barrier(8)
    with several(models, 4, max_loaded_models=2) as made, ThreadPoolExecutor(8) as pool:

        def call(seed: int) -> bool:
            draw = np.random.default_rng(seed)
            barrier.wait(PATIENCE)
            right = []
            for number in draw.integers(1, 1000, 40).tolist():
                right.append(made[number % 4].ask(number).right)
                right.append(sum(model.is_loaded for model in made) <= 2)
            return all(right)

        assert list(pool.map(call, range(8))) == [True] * 8


# With real engines


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Return folders of three models, in a process without shared engines."""
    monkeypatch.setattr(shared, "_engines", {})
    monkeypatch.setattr(shared, "_loaded", LoadedModels())
    copies = [Path(shutil.copytree(NANO_FOLDER, tmp_path / name)) for name in "abc"]
    yield copies
    for engine in shared._engines.values():
        engine.close()


def loaded(engines: list[EmbeddingEngine]) -> list[bool]:
    return [engine._model.worker.model_bytes > 0 for engine in engines]


def test_a_model_loaded_again_gives_the_same_vectors(folders: list[Path]) -> None:
    engines = [shared.get_engine(folder, cache_bytes=0) for folder in folders]
    first = [engine.embed_documents(["a text"]) for engine in engines]
    assert loaded(engines) == [False, True, True]
    np.testing.assert_array_equal(engines[0].embed_documents(["a text"]), first[0])
    assert loaded(engines) == [True, False, True]
    np.testing.assert_array_equal(asyncio.run(engines[1].aembed_documents(["a text"])), first[1])
    assert loaded(engines) == [True, True, False]


def test_the_memory_of_a_retired_model_is_freed(folders: list[Path]) -> None:
    import mlx.core as mx

    engines = [shared.get_engine(folder, cache_bytes=0, max_loaded_models=1) for folder in folders]
    engines[0].embed_query("a text")
    one = mx.get_active_memory()
    size = engines[0]._model.worker.model_bytes
    assert size > 10 * 2**20
    for engine in (*engines, *engines):
        engine.embed_query("a text")
        assert mx.get_active_memory() < one + size / 4
    assert sum(loaded(engines)) == 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell the memory of a process")
def test_the_process_does_not_grow_when_models_take_turns(folders: list[Path]) -> None:
    engines = [shared.get_engine(folder, cache_bytes=0, max_loaded_models=1) for folder in folders]

    def take_turns() -> int:
        for engine in engines:
            engine.embed_query("a text")
        return resident_memory()

    before = take_turns()
    after = [take_turns() for _ in range(4)][-1]
    # A dozen models were loaded: if freed memory were not returned, most of them would still count.
    assert after - before < 3 * engines[0]._model.worker.last_model_bytes


def test_engines_that_are_not_shared_are_not_counted(folders: list[Path]) -> None:
    with EmbeddingEngine(folders[0]) as own:
        engines = [shared.get_engine(folder) for folder in folders[1:]]
        for engine in (own, *engines, own):
            engine.embed_query("a text")
        assert loaded([own, *engines]) == [True, True, True]


def test_concurrent_first_callers_load_the_model_once(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_qwen_embeddings.compute import encoder, loading

    loads: list[Any] = []
    load = loading.load_model

    def count(*given: Any) -> Any:
        loads.append(given)
        return load(*given)

    monkeypatch.setattr(encoder, "load_model", count)
    barrier = threading.Barrier(8)

    def call(number: int) -> bytes:
        barrier.wait(PATIENCE)
        return shared.get_engine(folders[0]).embed_documents(["a text"]).tobytes()

    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(call, range(8)))
    assert len(loads) == 1
    assert len(shared._engines) == 1
    first, *_, last = (np.frombuffer(vector, np.float32) for vector in vectors)
    np.testing.assert_allclose(first, last, atol=1e-6)


def test_a_call_whose_model_waits_for_a_place_can_time_out(folders: list[Path]) -> None:
    first, second = (shared.get_engine(folder, max_loaded_models=1) for folder in folders[:2])
    first.warmup()
    worker = first._model.worker
    worker._computing.acquire()  # its next batch does not begin
    with ThreadPoolExecutor(1) as pool:
        try:
            served = pool.submit(first.embed_query, "another text")
            while not worker.queue[0]:
                assert not served.done()
            with pytest.raises(EmbeddingTimeoutError):
                second.embed_query("a text", timeout=0.2)
        finally:
            worker._computing.release()
        assert served.result(PATIENCE).shape == (384,)
    assert second.embed_query("a text").shape == (384,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_all_places(folders: list[Path]) -> None:
    engines = [shared.get_engine(folder, cache_bytes=0, device="cpu") for folder in folders]
    before = [engine.embed_query("a text") for engine in engines]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            same = [
                np.allclose(engine.embed_query("a text"), vector, atol=1e-6)
                for engine, vector in zip(engines, before, strict=True)
            ]
            status = 0 if all(same) and sum(loaded(engines)) <= 2 else 3
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert engines[0].embed_query("a text").shape == (384,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_children_forked_while_models_take_turns_can_use_every_model(folders: list[Path]) -> None:
    # Some of these forks happen while a model waits for its place, is being freed or is being loaded.
    engines = [shared.get_engine(folder, cache_bytes=0, device="cpu", max_loaded_models=1) for folder in folders]
    wanted = engines[0].embed_query("a text")
    enough = threading.Event()

    def take_turns(start: int) -> int:
        turns = 0
        while not enough.is_set():
            vector = engines[(start + turns) % 3].embed_query("a text")
            np.testing.assert_allclose(vector, wanted, atol=1e-5)
            turns += 1
        return turns

    with ThreadPoolExecutor(3) as pool:
        turning = [pool.submit(take_turns, start) for start in range(3)]
        try:
            children = [Child(lambda: [engine.embed_query("a text") for engine in engines]) for _ in range(5)]
            found = [vector for child in children for vector in child.result()]
        finally:
            enough.set()
        assert all(turns.result(PATIENCE) for turns in turning)
    np.testing.assert_allclose(found, [wanted] * 15, atol=1e-5)
    assert sum(loaded(engines)) <= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_a_model_waits_for_its_place(models: LoadedModels) -> None:
    with several(models, 2, max_loaded_models=1) as (first, second):
        with first.encoder.held():
            holds = first.ask()
            first.encoder.begun()
            waits = second.ask(2)
            releasing = threading.Thread(target=let_a_fork_go_on, args=(first,))
            releasing.start()
            # The parent's places do not count in the child: there both models can be loaded, one after the other.
            child = Child(lambda: (first.ask(3).right, second.ask(4).right, len(models.holders)))
            releasing.join(PATIENCE)
        assert child.result() == (True, True, 1)
        assert holds.right
        assert waits.right


def let_a_fork_go_on(model: Model) -> None:
    with model.worker._changed:
        while not model.worker._changed.wait_for(model.worker._turnstile.locked, 0.005):
            pass
    model.encoder._held = False
    model.encoder._let_go.release()


def test_a_changed_folder_is_not_loaded_again(tmp_path: Path) -> None:
    """Otherwise its vectors would be cached, also on disk, under the key of the earlier model."""
    folder, cache = shutil.copytree(NANO_FOLDER, tmp_path / "model"), tmp_path / "vectors.sqlite"
    weights = folder / "model.safetensors"
    original = weights.read_bytes()
    with EmbeddingEngine(str(folder), cache_path=cache) as engine:
        wanted = engine.embed_documents(["a cat"])
        engine._model.worker.place = Place(LoadedModels(), EngineSettings(), lambda: 100)
        wait_for_requests(engine, 0)
        assert engine._model.worker.retire()
        while engine.loaded:
            time.sleep(0.01)
        content = bytearray(original)
        content[-1000] ^= 1
        weights.write_bytes(content)
        np.testing.assert_array_equal(engine.embed_documents(["a cat"]), wanted)  # from the cache
        with pytest.raises(ModelLoadError, match=rf"{folder} was changed since this engine opened it.*open a new one"):
            engine.embed_documents(["a kitten"])
        weights.write_bytes(original)
        assert engine.embed_documents(["a kitten"]).shape == (1, 384)


def test_a_folder_still_being_copied_can_be_opened_once_it_is_complete(tmp_path: Path) -> None:
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])
    with EmbeddingEngine(str(folder)) as engine, EmbeddingEngine("nano") as other:
        with pytest.raises(ModelLoadError):
            engine.embed_documents(["a cat"])
        (folder / "model.safetensors").write_bytes(whole)
        with contextlib.suppress(ModelLoadError):  # "the next call opens it again", unless the first had not opened it yet
            engine.embed_documents(["a cat"])
        np.testing.assert_array_equal(engine.embed_documents(["a cat"]), other.embed_documents(["a cat"]))
    assert engine.fingerprint == other.fingerprint
