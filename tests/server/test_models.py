"""The server's models as they load: a warm-up that fails, and a model that made room for another and is loaded again."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings
from mlx_qwen_embeddings.engine.model import ModelFacts
from mlx_qwen_embeddings.errors import ModelLoadError, UnknownModelError
from mlx_qwen_embeddings.server import models as served
from mlx_qwen_embeddings.server.errors import ApiError
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.settings import ServerSettings
from tests.support.fake_encoder import PATIENCE


class Engine:
    """Stands in for an engine, as the server's models see it; loading it does what a test says."""

    def __init__(self, load: Callable[[], object]) -> None:
        self.load, self.loaded, self.loads = load, False, 0

    def warmup(self) -> None:
        self.loads += 1
        self.load()
        self.loaded = True

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(384, 2048, "last", {}, "float32", "cpu")

    def stats(self) -> object:
        return EmbeddingEngine("nano").stats()

    def close(self) -> None:
        self.loaded = False


def serve(monkeypatch: pytest.MonkeyPatch, engine: Engine, **settings: Any) -> Models:
    monkeypatch.setattr(served, "get_engine", lambda *_, **__: engine)
    return Models(ServerSettings(models=("nano",), **settings), EngineSettings())


def failing(*errors: Exception) -> Callable[[], None]:
    """Return a load that raises these errors, the last first, and then succeeds."""
    left = list(errors)

    def load() -> None:
        if left:
            raise left.pop()

    return load


def test_a_failed_warm_up_is_tried_again_after_longer_and_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        assert not models.ready
        pauses.append(seconds)

    engine = Engine(failing(ModelLoadError("no network"), RuntimeError("a defect"), ModelLoadError("no network")))
    models = serve(monkeypatch, engine)
    monkeypatch.setattr(served, "LONGEST_PAUSE", 3 * served.FIRST_PAUSE)
    monkeypatch.setattr(asyncio, "sleep", pause)
    asyncio.run(asyncio.wait_for(models.warm_up(), PATIENCE))
    assert models.ready
    assert (engine.loads, pauses) == (4, [served.FIRST_PAUSE, 2 * served.FIRST_PAUSE, 3 * served.FIRST_PAUSE])


def test_the_warm_up_does_not_load_again_what_a_request_has_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async def pause(_: float) -> None:
            await models.engine(models.find("nano"))
            assert models.ready

        monkeypatch.setattr(asyncio, "sleep", pause)
        await asyncio.wait_for(models.warm_up(), PATIENCE)

    engine = Engine(failing(ModelLoadError("no network")))
    models = serve(monkeypatch, engine)
    asyncio.run(run())
    assert engine.loads == 2


def test_the_server_stays_ready_while_a_warm_model_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(lambda: None)
    models = serve(monkeypatch, engine, load_wait=0)

    async def run() -> None:
        await models.warm_up()
        may_load = asyncio.Event()
        loop = asyncio.get_running_loop()
        engine.loaded = False
        engine.load = lambda: asyncio.run_coroutine_threadsafe(may_load.wait(), loop).result(PATIENCE)
        with pytest.raises(ApiError, match="is still loading"):
            await models.engine(models.find("nano"))
        assert models.ready
        may_load.set()
        await models._loading["nano"]
        engine.loaded = False
        engine.load = failing(ModelLoadError("gone from the disk"))
        with pytest.raises((ApiError, ModelLoadError)):
            await models.engine(models.find("nano"))
        assert models.ready

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_a_load_that_fails_after_its_requests_were_refused_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        assert may_fail.wait(PATIENCE)
        raise ModelLoadError("a broken disk")

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(ApiError, match="is still loading"):
                await models.engine(models.find("nano"))
        may_fail.set()
        await asyncio.wait([models._loading["nano"]])
        models._loading.clear()
        gc.collect()  # asyncio would now log an exception that was never retrieved

    may_fail = threading.Event()
    models = serve(monkeypatch, Engine(fail), load_wait=0)
    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(run(), PATIENCE))
    assert [record.getMessage() for record in caplog.records] == ["cannot load: a broken disk"]
    assert vars(caplog.records[0])["model"] == "nano"


def test_a_failed_warm_up_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(served, "FIRST_PAUSE", 0)
    models = serve(monkeypatch, Engine(failing(ModelLoadError("no network"))))
    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(models.warm_up(), PATIENCE))
    assert [record.getMessage() for record in caplog.records] == ["cannot load: no network"]


def test_the_server_ends_while_a_model_is_still_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def load() -> None:
        begun.set()
        ended.append(may_end.wait(PATIENCE))

    models = serve(monkeypatch, Engine(load))

    async def run() -> None:
        warming = asyncio.create_task(models.warm_up())
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        warming.cancel()
        await models.close()

    asyncio.run(run())
    assert not models.ready
    assert ended == []
    may_end.set()


def named(**settings: Any) -> Models:
    return Models(ServerSettings(**settings), EngineSettings())


def test_every_alias_is_served_unless_models_are_named(tmp_path: Path) -> None:
    models = named()
    assert (models.default, models.warm) == ("small", ("small",))
    assert {"small", "large-bf16", "nano", "e5-base"} <= set(models.specs)
    for name in ("0.6B", "Qwen/Qwen3-Embedding-0.6B", "small:query", "SMALL"):
        assert models.find(name).name in {"small", "small-bf16"}
    for name in ("some/other", str(tmp_path), ".", "nano:passage", ":query", ""):
        with pytest.raises(UnknownModelError, match="is not served here"):
            models.find(name)


def test_the_first_named_model_is_the_default() -> None:
    models = named(models="nano,owner/name")
    assert (models.default, models.warm, list(models.specs)) == ("nano", ("nano",), ["nano", "owner/name"])
    assert (models.find("owner/name:document").role, models.find("nano").role) == ("document", None)


def test_a_warm_model_must_be_served() -> None:
    with pytest.raises(UnknownModelError, match="'small' is not served here: nano are"):
        named(models="nano", warm="small")
    with pytest.raises(UnknownModelError, match="Did you mean 'nano'"):
        named(models="nanoo")
