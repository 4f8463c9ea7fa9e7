"""Several models behind one server: what it says about those not in memory, and how they take turns there."""

import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings, ModelSpec, registry
from mlx_qwen_embeddings.checkpoint.integrity import RECORD
from mlx_qwen_embeddings.engine import shared
from mlx_qwen_embeddings.engine.shared import LoadedModels
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.server.app import create_app
from mlx_qwen_embeddings.server.settings import ServerSettings
from tests.support.fake_encoder import PATIENCE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["Tides follow the moon.", "The cat sleeps."]


@pytest.fixture(autouse=True)
def no_shared_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share no engines with other tests, whose models would take up places in memory."""
    monkeypatch.setattr(shared, "_engines", {})
    monkeypatch.setattr(shared, "_loaded", LoadedModels())


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the alias of a folder with a copy of nano."""
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "copy")
    monkeypatch.setitem(registry._models, "copy", ModelSpec("copy", str(folder), local=True))
    return "copy"


def listed(client: TestClient) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in client.get("/v1/models").json()["data"]}


def loaded_models(client: TestClient) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    (sample,) = next(family.samples for family in families if family.name == "mlx_qwen_loaded_models")
    return sample.value


def ask(client: TestClient, model: str) -> list[list[float]]:
    answer = client.post("/v1/embeddings", json={"model": model, "input": TEXTS})
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in answer.json()["data"]]


def test_models_take_turns_in_memory_and_keep_their_facts(copy: str) -> None:
    with EmbeddingEngine("nano") as engine:
        wanted = engine.embed_documents(TEXTS)
    engines = EngineSettings(model="nano", max_loaded_models=1, cache_bytes=0)
    with TestClient(create_app(ServerSettings(models=("nano", copy), warm=()), engines)) as client:
        counts, over = [loaded_models(client)], threading.Event()

        def watch() -> None:
            while not over.wait(0.01):  # a shorter pause would slow the models down
                counts.append(loaded_models(client))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            for model in ("nano", copy) * 2:
                np.testing.assert_allclose(ask(client, model), wanted, atol=1e-5)
                found = listed(client)
                assert {name for name, entry in found.items() if entry["loaded"]} == {model}
                assert {name for name, entry in found.items() if entry["pooling"] == "last"} == {"nano", copy}
            with ThreadPoolExecutor(4) as pool:
                for vectors in pool.map(lambda model: ask(client, model), ("nano", copy) * 2, timeout=PATIENCE):
                    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
        finally:
            over.set()
            watching.join(PATIENCE)
    assert set(counts) <= {0, 1}
    assert 1 in counts


def test_facts_of_models_that_were_never_loaded_come_from_their_files(
    copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        message = "the network was touched"
        raise AssertionError(message)

    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(b"no weights")
    bad = tmp_path / "bad"
    bad.mkdir()
    repository = tmp_path / "models--Qwen--Qwen3-Embedding-0.6B"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(tmp_path / "copy", repository / "snapshots" / COMMIT)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    names = ("nano", copy, "small-bf16", "medium", "bge-small", str(bad))
    settings = EngineSettings(cache_dir=tmp_path, dtype="bfloat16", device="cpu")
    with TestClient(create_app(ServerSettings(models=names, warm=()), settings)) as client:
        found = listed(client)
        for name in ("nano", copy, "small-bf16"):
            facts = {key: found[name][key] for key in ("dimensions", "max_length", "pooling", "prompts")}
            prompts = {"query": "", "document": ""}
            assert facts == {"dimensions": 384, "max_length": 2048, "pooling": "last", "prompts": prompts}
        for name, dimensions in (("medium", 2560), ("bge-small", 384), (str(bad), None)):
            assert [found[name][key] for key in ("dimensions", "pooling", "prompts")] == [dimensions, None, None]
        assert {(entry["dtype"], entry["loaded"]) for entry in found.values()} == {("bfloat16", False)}
        shutil.rmtree(tmp_path / "copy")
        assert listed(client)[copy]["pooling"] is None
    assert not (repository / RECORD).exists(), "the weights were read to check their sha256"
