"""An engine from its first call to its end: opening, counters, progress, closing, pickles."""

import asyncio
import gc
import pickle
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings
from mlx_qwen_embeddings.engine import call as call_module
from mlx_qwen_embeddings.engine import model
from mlx_qwen_embeddings.engine.call import Call, make_plan
from mlx_qwen_embeddings.engine.model import find_files
from mlx_qwen_embeddings.errors import EmbeddingTimeoutError, EngineClosedError, ModelLoadError
from mlx_qwen_embeddings.options import EmbedOptions
from tests.support.fake_encoder import PATIENCE
from tests.support.same_vectors import TEXTS, assert_same

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    with EmbeddingEngine("nano") as engine:
        return engine.embed_documents(TEXTS)


@pytest.fixture
def hanging(fresh: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Delay finding the fresh engine's model until the event is set, like a slow download."""
    go_on, tries = threading.Event(), []

    def wait(settings: EngineSettings) -> Any:
        tries.append(settings)
        assert go_on.wait(PATIENCE)
        return find_files(settings)

    monkeypatch.setattr(model, "find_files", wait)
    yield go_on
    go_on.set()
    assert len(tries) == 1, "all calls share one attempt"


async def test_the_timeout_holds_while_the_model_is_opened(
    fresh: EmbeddingEngine, hanging: threading.Event, vectors: Vectors
) -> None:
    for call in (fresh.embed_documents, fresh.embed_queries):
        with pytest.raises(EmbeddingTimeoutError, match=r"within timeout=0\.05 s"):
            call(TEXTS, timeout=0.05)
    with pytest.raises(EmbeddingTimeoutError):
        await fresh.aembed_documents(TEXTS, timeout=0.05)
    patient = asyncio.create_task(fresh.aembed_documents(TEXTS, timeout=PATIENCE))
    await asyncio.sleep(0)
    hanging.set()  # opening went on all the while, and serves later calls
    assert_same(await patient, vectors)
    assert_same(fresh.embed_documents(TEXTS, timeout=PATIENCE), vectors)


async def test_a_model_that_cannot_be_opened_is_an_error_and_is_tried_again(
    fresh: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch, vectors: Vectors
) -> None:
    def fail(settings: EngineSettings) -> Any:
        message = "no network"
        raise ModelLoadError(message)

    with monkeypatch.context() as patch:
        patch.setattr(model, "find_files", fail)
        with pytest.raises(ModelLoadError, match="no network"):
            fresh.embed_documents(TEXTS, timeout=PATIENCE)
        with pytest.raises(ModelLoadError, match="no network"):
            await fresh.aembed_documents(TEXTS)
    assert_same(fresh.embed_documents(TEXTS, timeout=PATIENCE), vectors)


def test_counted_tokens_equal_computed_tokens(fresh: EmbeddingEngine) -> None:
    cases: list[dict[str, Any]] = [{}, {"instruction": "Find it"}, {"chat_template": "<{{ messages[0].content }}>"}]
    for options in cases:
        before = fresh.stats().tokens
        counted = fresh.count_tokens(TEXTS, **options)
        assert counted == [fresh.count_tokens([text], **options)[0] for text in TEXTS]
        fresh.embed_documents(TEXTS, **options)
        assert fresh.stats().tokens - before == sum(counted)
    assert fresh.count_tokens([]) == []
    with pytest.raises(TypeError, match=r"texts\[0\]"):
        fresh.count_tokens([1])  # type: ignore[list-item]


def test_stats_of_a_fresh_engine_and_after_its_first_call(fresh: EmbeddingEngine) -> None:
    assert fresh.stats() == type(fresh.stats())()
    assert fresh.warmup() is fresh
    stats = fresh.stats()
    assert (stats.texts, stats.batches, stats.cache_entries, stats.queued_requests) == (1, 1, 0, 0)
    assert min(stats.load_seconds, stats.compute_seconds, stats.tokenize_seconds) > 0
    assert stats.peak_memory_bytes >= stats.memory_bytes > 10_000_000  # the weights
    fresh.embed_documents(["one", "two"])
    stats = fresh.stats()
    assert (stats.texts, stats.cache_entries) == (3, 2)
    assert stats.cache_bytes > 0


def test_warmup_loads_the_model_whatever_is_cached(tmp_path: Path) -> None:
    for _ in range(2):
        with EmbeddingEngine("nano", cache_path=tmp_path) as engine:
            engine.embed_documents(["warm up"])  # from the file, and without the model, the second time
            before = engine.stats().batches
            engine.warmup()
            assert engine.stats().batches == before + 1
            assert engine.stats().load_seconds > 0


def test_a_progress_bar_is_drawn_on_request(fresh: EmbeddingEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.embed_documents(TEXTS)
    assert capsys.readouterr().err == ""
    fresh.embed_documents([*TEXTS, *TEXTS, "new"], show_progress=True)
    shown = capsys.readouterr()
    assert "Embedding" in shown.err
    assert "9/9" in shown.err
    assert shown.out == ""


def test_progress_never_goes_back(fresh: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_module, "WINDOW_TEXTS", 4)
    texts = [f"text {number}" for number in range(30)]
    plan = make_plan(fresh._model, fresh._model.open(), "document", EmbedOptions())
    call, seen = Call([[*texts, *texts]], plan), list[int]()
    for step in call.steps():
        if isinstance(step, Future):
            step.result(PATIENCE)
        seen.append(call.done)
    assert seen == sorted(seen)
    assert seen[-1] == 60


def test_a_closed_engine_refuses_calls_but_keeps_its_properties() -> None:
    with EmbeddingEngine("nano") as engine:
        known = (engine.dimensions, engine.max_length, engine.limit, engine.fingerprint)
        engine.embed_documents(TEXTS)
    assert engine.closed
    engine.close()
    for refused in (engine.embed_documents, engine.embed_queries, engine.count_tokens):
        with pytest.raises(EngineClosedError, match="open a new one"):
            refused(TEXTS)
    with pytest.raises(EngineClosedError):
        next(engine.stream_documents(TEXTS))
    assert (engine.dimensions, engine.max_length, engine.limit, engine.fingerprint) == known
    assert engine.stats().texts == len(TEXTS)
    assert engine.stats().memory_bytes == engine.stats().cache_bytes == 0


def test_an_engine_closed_before_its_first_use_refuses_calls() -> None:
    engine = EmbeddingEngine("nano")
    engine.close()
    with pytest.raises(EngineClosedError):
        _ = engine.dimensions


def test_an_unreferenced_engine_frees_its_model() -> None:
    engine = EmbeddingEngine("nano").warmup()
    worker = engine._model.worker
    (thread,) = worker._threads
    assert thread.is_alive()
    del engine
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert worker.memory == (0, 0)


def test_an_engine_closed_during_a_call_is_freed() -> None:
    engine = EmbeddingEngine("nano", batch_tokens=50)
    begun, errors = threading.Event(), list[BaseException]()

    def texts() -> Iterator[str]:
        yield from TEXTS
        yield from (f"text {number}" for number in range(3000))

    def ask(engine: EmbeddingEngine) -> None:
        try:
            for _ in engine.stream_documents(texts(), block_size=len(TEXTS)):
                begun.set()
        except EngineClosedError as error:
            errors.append(error)

    asking = threading.Thread(target=ask, args=(engine,))
    asking.start()
    assert begun.wait(PATIENCE)
    engine.close()
    asking.join(PATIENCE)
    assert len(errors) == 1
    # The error refers to the frames it passed through, and those to the engine.
    errors.clear()
    seen = weakref.ref(engine)
    del engine, asking
    gc.collect()
    assert seen() is None


def test_a_pickle_holds_the_settings_alone(vectors: Vectors) -> None:
    engine = EmbeddingEngine("nano", batch_tokens=77, dtype="float32")
    engine.close()
    with pickle.loads(pickle.dumps(engine)) as twin:  # noqa: S301 - its own bytes
        assert twin.settings == engine.settings
        assert not twin.closed
        assert_same(twin.embed_documents(TEXTS), vectors)


def test_repr_shows_the_settings() -> None:
    assert repr(EmbeddingEngine("nano", batch_tokens=77)) == "EmbeddingEngine(model='nano', batch_tokens=77)"
    given = EngineSettings(model="nano", cache_bytes=0)
    assert EmbeddingEngine(settings=given, batch_tokens=5).settings == EngineSettings(
        model="nano", cache_bytes=0, batch_tokens=5
    )


def test_none_leaves_a_setting_as_it_is() -> None:
    given = EngineSettings(model="nano", dtype="float32", lanes=1)
    assert EmbeddingEngine(settings=given, dtype=None, lanes=None, device=None).settings == given
