"""``get_engine``: one engine for a model, revision, dtype and device, whoever asks for it and when."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from mlx_qwen_embeddings import EmbeddingEngine, get_engine, register, registry
from mlx_qwen_embeddings.engine import shared
from mlx_qwen_embeddings.errors import UnknownModelError
from mlx_qwen_embeddings.registry import NANO_FOLDER, ModelSpec
from tests.support.fake_encoder import PATIENCE


@pytest.fixture(autouse=True)
def _engines_of_this_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shared, "_engines", {})
    monkeypatch.setattr(registry, "_models", dict(registry._models))
    for name in ("MODEL", "REVISION", "DTYPE", "DEVICE", "CACHE_BYTES"):
        monkeypatch.delenv(f"MLX_QWEN_{name}", raising=False)
    yield
    for engine in shared._engines.values():
        engine.close()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("nano", "nano"),
        ("nano", "NANO"),
        ("nano", str(NANO_FOLDER)),
        ("nano", NANO_FOLDER),
        ("small", "0.6b"),
        ("small", "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"),
        ("small", None),
        ("someone/some-model", "someone/some-model"),
    ],
)
def test_all_names_of_a_model_give_one_engine(one: str, other: str | Path | None) -> None:
    assert get_engine(one) is get_engine(other)


@pytest.mark.parametrize("other", [{"revision": "v2"}, {"dtype": "bfloat16"}, {"device": "cpu"}])
def test_revision_dtype_and_device_are_part_of_it(other: dict[str, str]) -> None:
    engine = get_engine("small", **other)  # type: ignore[arg-type]
    assert engine is get_engine("small", **other)  # type: ignore[arg-type]
    assert engine is not get_engine("small")
    assert getattr(engine.settings, *other) == next(iter(other.values()))


def test_another_model_is_another_engine() -> None:
    assert len({id(get_engine(name)) for name in ("nano", "small", "medium", "small-bf16")}) == 4


def test_the_environment_counts_like_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, in_words = get_engine("nano"), get_engine("nano", dtype="bfloat16")
    monkeypatch.setenv("MLX_QWEN_MODEL", "nano")
    assert get_engine() is plain
    monkeypatch.setenv("MLX_QWEN_DTYPE", "bfloat16")
    assert get_engine() is in_words


def test_a_registered_name_is_the_model_behind_it() -> None:
    register(ModelSpec(name="house-model", source="someone/house-model"))
    assert get_engine("house-model") is get_engine("someone/house-model")


def test_threads_that_ask_at_once_get_one_engine() -> None:
    barrier = threading.Barrier(8)
    found: list[EmbeddingEngine] = []

    def ask() -> None:
        barrier.wait(PATIENCE)
        engine = get_engine("nano")
        engine.embed_query("at once")
        found.append(engine)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert found[0].stats().texts == 8


def test_a_closed_engine_is_replaced() -> None:
    first = get_engine("nano")
    vector = first.embed_query("again")
    first.close()
    second = get_engine("nano")
    assert second is not first
    assert second is get_engine("nano")
    np.testing.assert_allclose(second.embed_query("again"), vector, rtol=0, atol=1e-6)


def test_settings_apply_to_a_new_engine_and_are_warned_of_for_an_existing_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mlx_qwen_embeddings"):
        engine = get_engine("nano", cache_bytes=1000, batch_tokens=64)
        assert (engine.settings.cache_bytes, engine.settings.batch_tokens) == (1000, 64)
        assert get_engine("nano", cache_bytes=1000) is engine
        assert get_engine("nano") is engine
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "mlx_qwen_embeddings"):
        assert get_engine("nano", cache_bytes=7, batch_tokens=64) is engine
    (record,) = caplog.records
    assert "'nano' is open already, so cache_bytes was not applied" in record.getMessage()
    assert engine.settings.cache_bytes == 1000


def test_bad_settings_make_no_engine() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'nano'"):
        get_engine("nanno")
    with pytest.raises(ValidationError, match="dtype"):
        get_engine("nano", dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="batch_size"):
        get_engine("nano", batch_size=4)
    assert shared._engines == {}


def test_adapters_with_different_options_share_an_engine() -> None:
    from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
    from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding

    adapters = [
        MLXQwenEmbeddings("nano"),
        MLXQwenEmbeddings("nano", dimensions=64, query_instruction="Find it", timeout=30),
        MLXQwenEmbedding("nano", dimensions=32, document_instruction="Read it", pooling="mean", normalize=False),
    ]
    assert {id(adapter.engine) for adapter in adapters} == {id(get_engine("nano"))}
    assert len(shared._engines) == 1


def test_a_registered_models_prompts_are_part_of_its_key() -> None:
    plain, vector = get_engine("nano"), get_engine("nano").embed_query("ask: what is the tide?")
    register(ModelSpec(name="asking", source=str(NANO_FOLDER), local=True, prompts={"query": "ask: "}))
    asking = get_engine("asking")
    np.testing.assert_allclose(asking.embed_query("what is the tide?"), vector, rtol=0, atol=1e-6)
    assert asking.fingerprint != plain.fingerprint
    assert get_engine("nano") is plain
