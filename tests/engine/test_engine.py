"""Synchronous calls of an engine on the embedded model: order, options, checks and long texts."""

import logging
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.errors import InputTooLongError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.same_vectors import TEXTS, assert_same

FULL = 384

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def vectors(engine: EmbeddingEngine) -> Vectors:
    return engine.embed_documents(TEXTS)


# Results


def test_vectors_are_float32_of_unit_length_in_the_order_of_the_texts(engine: EmbeddingEngine, vectors: Vectors) -> None:
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), FULL)
    assert vectors.flags.c_contiguous
    assert vectors.flags.writeable
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert_same(engine.embed_documents(TEXTS[::-1]), vectors[::-1])
    assert np.abs(vectors[:, None] - vectors[None]).max(axis=2)[~np.eye(len(TEXTS), dtype=bool)].min() > 0.05


def test_a_text_that_is_repeated_is_computed_once(fresh: EmbeddingEngine, vectors: Vectors) -> None:
    order = [1, 0, 1, 1, 3, 0]
    assert_same(fresh.embed_documents([TEXTS[place] for place in order]), vectors[order])
    stats = fresh.stats()
    assert (stats.texts, stats.duplicates, stats.cache_misses, stats.cache_hits) == (6, 3, 3, 0)
    assert stats.tokens == sum(fresh.count_tokens([TEXTS[place] for place in (0, 1, 3)]))


def test_texts_that_differ_only_in_white_space_or_case_are_distinct(fresh: EmbeddingEngine) -> None:
    texts = ["a tide", " a tide", "a tide ", "a tide\n", "A tide"]
    fresh.embed_documents(texts)
    assert (fresh.stats().duplicates, fresh.stats().cache_misses) == (0, len(texts))


@pytest.mark.parametrize(("options", "width"), [({}, FULL), ({"dimensions": 64}, 64), ({"normalize": False}, FULL)])
def test_no_texts_give_no_vectors(options: dict[str, Any], width: int, engine: EmbeddingEngine) -> None:
    for embed in (engine.embed_documents, engine.embed_queries):
        assert embed([], **options).shape == (0, width)
        assert embed(iter([]), **options).dtype == np.float32


def test_one_query_is_one_vector(engine: EmbeddingEngine) -> None:
    assert_same(engine.embed_query("where?"), engine.embed_queries(["where?"])[0])


def test_texts_may_be_a_generator_or_a_tuple(engine: EmbeddingEngine, vectors: Vectors) -> None:
    assert_same(engine.embed_documents(text for text in TEXTS), vectors)
    assert_same(engine.embed_documents(tuple(TEXTS)), vectors)


def test_changing_a_returned_vector_does_not_change_the_cache(engine: EmbeddingEngine, vectors: Vectors) -> None:
    engine.embed_documents(TEXTS)[:] = 7
    assert_same(engine.embed_documents(TEXTS), vectors)


def test_the_cache_gives_what_was_computed(fresh: EmbeddingEngine) -> None:
    computed = fresh.embed_documents(TEXTS, dimensions=32)
    before = fresh.stats()
    np.testing.assert_array_equal(fresh.embed_documents(TEXTS, dimensions=32), computed)
    raw = fresh.embed_documents(TEXTS, normalize=False)  # dimensions and normalisation are applied after the cache
    assert_same(raw[:, :32] / np.linalg.norm(raw[:, :32], axis=1, keepdims=True), computed)
    after = fresh.stats()
    assert (after.batches, after.cache_hits - before.cache_hits) == (before.batches, 2 * len(TEXTS))


# Options


def test_vectors_are_cut_to_dimensions_then_normalised(engine: EmbeddingEngine, vectors: Vectors) -> None:
    cut = vectors[:, :100] / np.linalg.norm(vectors[:, :100], axis=1, keepdims=True)
    assert_same(engine.embed_documents(TEXTS, dimensions=100), cut)


def test_without_normalisation_only_the_length_differs(engine: EmbeddingEngine, vectors: Vectors) -> None:
    raw = engine.embed_documents(TEXTS, normalize=False)
    lengths = np.linalg.norm(raw, axis=1)
    assert np.abs(lengths - 1).min() > 0.1
    assert_same(raw / lengths[:, None], vectors)
    assert_same(engine.embed_documents(TEXTS, normalize=False, dimensions=50), raw[:, :50])


def test_an_instruction_is_put_before_the_text_as_in_training(engine: EmbeddingEngine) -> None:
    asked = [f"Instruct: Find {{it}}\nQuery:{text}" for text in TEXTS]
    np.testing.assert_allclose(
        engine.embed_queries(TEXTS, instruction="Find {it}"), engine.embed_documents(asked), rtol=0, atol=1e-5
    )


def test_without_an_instruction_the_models_prompt_is_used_and_an_empty_one_means_none(tmp_path: Path) -> None:
    folder = copytree(NANO_FOLDER, tmp_path / "asks")
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "ask: "}}', "utf-8")
    with EmbeddingEngine(str(folder)) as engine:
        plain = engine.embed_documents(TEXTS)
        asked = engine.embed_documents([f"ask: {text}" for text in TEXTS])
        np.testing.assert_allclose(engine.embed_queries(TEXTS), asked, rtol=0, atol=1e-5)
        assert_same(engine.embed_queries(TEXTS, instruction=""), plain)
        assert np.abs(asked - plain).max() > 0.01


def test_poolings_differ_and_native_is_the_last_token(engine: EmbeddingEngine, vectors: Vectors) -> None:
    assert_same(engine.embed_documents(TEXTS, pooling="last"), vectors)
    found = [engine.embed_documents(TEXTS[:1], pooling=pooling) for pooling in ("last", "mean", "first", "max")]
    for place, one in enumerate(found):
        for other in found[:place]:
            assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 385}, "dimensions=385 is more than the 384"),
        ({"dimensions": 0}, "dimensions must be a whole number from 1"),
        ({"max_length": 2049}, "max_length must lie between 2 and 2048"),
        ({"max_length": 1}, "max_length must lie between 2"),
        ({"pooling": "cls"}, "pooling must be one of 'native'"),
        ({"truncate": "start"}, "truncate must be one of 'end', 'error'"),
        ({"timeout": 0}, "timeout must be seconds above 0"),
        ({"timeout": [5]}, "timeout must be seconds above 0"),
        ({"timeout": b"5"}, "timeout must be seconds above 0"),
        ({"timeout": float("nan")}, "timeout must be seconds above 0"),
    ],
)
def test_options_that_the_model_cannot_meet_are_refused(
    options: dict[str, Any], message: str, engine: EmbeddingEngine
) -> None:
    with pytest.raises(ValueError, match=message):
        engine.embed_documents(TEXTS, **options)


@pytest.mark.parametrize("name", ["normalize", "wait", "show_progress"])
def test_strings_for_true_and_false_are_refused(name: str, engine: EmbeddingEngine) -> None:
    given: dict[str, Any] = {name: "no"}
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 'no'"):
        engine.embed_documents(TEXTS, **given)


def test_numpy_integers_are_accepted(engine: EmbeddingEngine, vectors: Vectors) -> None:
    numbers: dict[str, Any] = {"dimensions": np.int64(64), "max_length": np.int32(100)}
    found = engine.embed_documents(TEXTS, **numbers)
    assert found.shape == (len(TEXTS), 64)
    assert_same(found, engine.embed_documents(TEXTS, dimensions=64, max_length=100))


def test_an_unknown_role_is_refused(engine: EmbeddingEngine) -> None:
    with pytest.raises(ValueError, match="role must be one of 'query', 'document', got 'doc'"):
        engine.count_tokens(TEXTS, role="doc")  # type: ignore[arg-type]


# Long texts


def test_a_long_text_is_cut_at_the_end_counted_and_warned_of_once(
    fresh: EmbeddingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    long = "one two three four five six seven eight"
    with caplog.at_level(logging.WARNING, "mlx_qwen_embeddings"):
        cut = fresh.embed_documents([long, "short", long], max_length=4)
        fresh.embed_documents([long], max_length=5)
        fresh.embed_documents([long], max_length=4)  # from the cache, but still a cut text
    assert_same(cut[0], fresh.embed_documents(["one two three"])[0])
    told = [record.getMessage() for record in caplog.records if "were cut" in record.getMessage()]
    assert len(told) == 1
    assert "1 text(s) were cut at max_length=4 tokens (the longest has 9)" in told[0]
    assert fresh.stats().truncations == 3


@pytest.mark.parametrize("times", [1, 2], ids=["computed", "cached"])
def test_a_long_text_is_refused_with_its_position(times: int, fresh: EmbeddingEngine) -> None:
    if times == 2:
        fresh.embed_documents(["one two three four"], max_length=4)
    with pytest.raises(InputTooLongError, match=r"texts\[2\] has 5 tokens, more than max_length=4"):
        fresh.embed_documents(["a", "b", "one two three four"], max_length=4, truncate="error")
    assert fresh.stats().queued_requests == 0


def test_anything_but_a_list_of_strings_is_refused(engine: EmbeddingEngine) -> None:
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string, got int 3"):
        engine.embed_documents(["a", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"write \[text\]"):
        engine.embed_queries("a bare string")
    with pytest.raises(TypeError, match=r"texts\[0\] must be a string, got NoneType"):
        engine.embed_query(None)  # type: ignore[arg-type]
