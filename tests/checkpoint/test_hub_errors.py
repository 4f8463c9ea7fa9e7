"""Models that are not in the cache and cannot be downloaded: offline, with an empty cache, and no network."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.errors import ModelLoadError, UnknownModelError


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        message = "a socket was opened"
        raise AssertionError(message)

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("small", "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"),
        ("8b-bf16", "Qwen/Qwen3-Embedding-8B"),
        ("someone/something", "someone/something"),
    ],
)
def test_a_model_that_is_not_cached_names_the_cache_and_nano(name: str, repository: str, tmp_path: Path) -> None:
    engine = EmbeddingEngine(name, offline=True, cache_dir=tmp_path)
    with pytest.raises(ModelLoadError) as caught:
        engine.embed_query("x")
    message = str(caught.value)
    assert repository in message
    assert str(tmp_path / f"models--{repository.replace('/', '--')}") in message
    assert "offline" in message
    assert "'nano'" in message


def test_the_environment_turns_the_network_off_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match=r"offline.*'nano'"):
        EmbeddingEngine("small", cache_dir=tmp_path).warmup()


async def test_an_async_call_raises_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"offline.*'nano'"):
        await EmbeddingEngine("small", offline=True, cache_dir=tmp_path).aembed_query("x")


def test_the_next_call_tries_again(tmp_path: Path) -> None:
    engine = EmbeddingEngine("small", offline=True, cache_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(ModelLoadError):
            engine.embed_documents([])
    assert not engine.closed


def test_a_snapshot_without_weights_is_not_a_model(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    with pytest.raises(ModelLoadError, match=r"not completely in the cache"):
        EmbeddingEngine("a/b", offline=True, cache_dir=tmp_path).warmup()


@pytest.mark.parametrize("name", ["-a/b", "a/b.git", "a--b/c..d"])
def test_a_name_that_the_hub_cannot_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no Hub name"):
        EmbeddingEngine(name, offline=True, cache_dir=tmp_path).warmup()


def test_an_unknown_name_is_refused_by_the_first_call() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'nano'"):
        EmbeddingEngine("nanno").embed_query("x")


def test_a_cache_folder_that_is_a_file_is_an_empty_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelLoadError, match="'nano'"):
        EmbeddingEngine("small", offline=True, cache_dir=tmp_path / "file").warmup()
