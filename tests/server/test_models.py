"""The server's models while they come and go: a warm-up that fails, one that made room and comes back."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable

import pytest

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings
from mlx_qwen_embeddings.engine.model import ModelFacts
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.server import models as served
from mlx_qwen_embeddings.server.errors import ApiError
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.settings import ServerSettings
from tests.support.fake_encoder import PATIENCE


class Engine:
    """What the server's models see of an engine; its load does what a test says."""

    def __init__(self, load: Callable[[], None]) -> None:
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


def serve(monkeypatch: pytest.MonkeyPatch, engine: Engine, **settings: float) -> Models:
    monkeypatch.setattr(served, "get_engine", lambda *_, **__: engine)
    return Models(ServerSettings(models=("nano",), **settings), EngineSettings())


def test_a_warm_up_that_fails_is_tried_again_after_longer_and_longer_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons, waits = [ModelLoadError("no network"), RuntimeError("a defect"), ModelLoadError("no network")], list[float]()

    def load() -> None:
        assert not models.ready
        if reasons:
            raise reasons.pop()

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    engine = Engine(load)
    models = serve(monkeypatch, engine)
    monkeypatch.setattr(served, "LONGEST_PAUSE", 3 * served.FIRST_PAUSE)
    monkeypatch.setattr(asyncio, "sleep", pause)
    asyncio.run(asyncio.wait_for(models.warm_up(), PATIENCE))
    assert models.ready
    assert (engine.loads, waits) == (4, [served.FIRST_PAUSE, 2 * served.FIRST_PAUSE, 3 * served.FIRST_PAUSE])


def test_what_a_request_loaded_meanwhile_is_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = [ModelLoadError("no network")]

    def load() -> None:
        if reasons:
            raise reasons.pop()

    async def run() -> None:
        async def pause(_: float) -> None:
            await models.engine(models.find("nano"))
            assert models.ready

        monkeypatch.setattr(asyncio, "sleep", pause)
        await asyncio.wait_for(models.warm_up(), PATIENCE)

    engine = Engine(load)
    models = serve(monkeypatch, engine)
    asyncio.run(run())
    assert engine.loads == 2


def test_a_warm_model_that_made_room_and_is_loaded_again_leaves_the_server_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(lambda: None)
    models = serve(monkeypatch, engine, load_wait=0)

    async def run() -> None:
        await models.warm_up()
        may_load = asyncio.Event()
        loop = asyncio.get_running_loop()
        engine.loaded = False
        engine.load = lambda: asyncio.run_coroutine_threadsafe(may_load.wait(), loop).result(PATIENCE) and None
        with pytest.raises(ApiError, match="is still loading"):
            await models.engine(models.find("nano"))
        assert models.ready
        may_load.set()
        await models._loading["nano"]
        engine.loaded = False
        engine.load = lambda: (_ for _ in ()).throw(ModelLoadError("gone from the disk"))
        with pytest.raises((ApiError, ModelLoadError)):
            await models.engine(models.find("nano"))
        assert models.ready

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_a_load_that_fails_after_everybody_was_sent_away_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        assert may_fail.wait(PATIENCE)
        raise ModelLoadError("a disk that broke")

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(ApiError, match="is still loading"):
                await models.engine(models.find("nano"))
        may_fail.set()
        await asyncio.wait([models._loading["nano"]])
        models._loading.clear()
        gc.collect()  # when asyncio would complain of an error that nobody looked at

    may_fail = threading.Event()
    models = serve(monkeypatch, Engine(fail), load_wait=0)
    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(run(), PATIENCE))
    assert [record.getMessage() for record in caplog.records] == ["cannot load: a disk that broke"]
    assert vars(caplog.records[0])["model"] == "nano"


def test_a_warm_up_that_fails_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    reasons = [ModelLoadError("no network")]

    def load() -> None:
        if reasons:
            raise reasons.pop()

    monkeypatch.setattr(served, "FIRST_PAUSE", 0)
    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(serve(monkeypatch, Engine(load)).warm_up(), PATIENCE))
    assert [record.getMessage() for record in caplog.records] == ["cannot load: no network"]
