"""Keys of cached vectors, and the cache in memory: its bound, its order, its time to live."""

import itertools
import json
import shutil
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.cache.memory import CacheKeys, MemoryCache
from mlx_qwen_embeddings.options import EmbedOptions
from mlx_qwen_embeddings.registry import NANO_FOLDER

FIELDS: dict[str, Any] = {
    "model": "m",
    "dtype": "cpu-float32",
    "pooling": "last",
    "prompt": "",
    "chat_template": None,
    "max_length": 512,
}


def vector(value: float, width: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full(width, value, dtype=np.float32)


def key(number: int) -> bytes:
    return number.to_bytes(20, "big")


def room_for(entries: int) -> int:
    """Return the bytes that this many vectors of 8 components take."""
    cache = MemoryCache(10**6)
    cache.put_many([(key(0), vector(0), 1)])
    return entries * cache.nbytes


# Keys


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"dtype": "cpu-bfloat16"},
        {"pooling": "mean"},
        {"prompt": "Instruct: x\nQuery:"},
        {"chat_template": ""},
        {"chat_template": "{{ x }}"},
        {"max_length": 513},
    ],
    ids=str,
)
def test_everything_that_shapes_a_vector_is_in_the_key(change: dict[str, Any]) -> None:
    assert CacheKeys(**FIELDS | change)("text") != CacheKeys(**FIELDS)("text")


def test_equal_fields_and_text_have_the_same_key() -> None:
    keys = CacheKeys(**FIELDS)
    assert keys("text") == keys("text") == CacheKeys(**FIELDS)("text")
    assert len(keys("")) == 20


def test_fields_and_text_cannot_run_together() -> None:
    fields = ["", "a", "ab", "b", '"', "\\", '", "', "\xff", "\u00ff"]
    keys = [
        CacheKeys(**FIELDS | {"prompt": prompt, "chat_template": template})(text)
        for prompt, template, text in itertools.product(fields, fields, fields)
    ]
    distinct = {(prompt, template, text) for prompt, template, text in itertools.product(fields, fields, fields)}
    assert len(set(keys)) == len(distinct)


# Keys of an engine: each option must make a difference by itself


TEXT = "Tides follow the moon, and so do those who live from what the sea leaves on the sand twice a day."
OTHER_TEMPLATE = "{% for message in messages %}Said: {{ message.content }}{% endfor %}"
SHAPING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"pooling": "mean"}),
    ({}, {"instruction": "Find it"}),
    ({"instruction": "Find it"}, {"instruction": "Find its"}),
    ({}, {"chat_template": OTHER_TEMPLATE}),
    ({"chat_template": OTHER_TEMPLATE}, {"chat_template": OTHER_TEMPLATE.replace("Said", "Told")}),
    ({}, {"max_length": 12}),
    ({"max_length": 12}, {"max_length": 11}),
]


@pytest.mark.parametrize("role", ["document", "query"])
@pytest.mark.parametrize(("one", "other"), SHAPING, ids=str)
def test_options_that_shape_a_vector_share_no_entry(role: Any, one: dict[str, Any], other: dict[str, Any]) -> None:
    with EmbeddingEngine("nano", cache_bytes=0) as plain, EmbeddingEngine("nano") as engine:
        wanted = [plain._embed([TEXT], role, EmbedOptions(**options)) for options in (one, other)]
        found = [engine._embed([TEXT], role, EmbedOptions(**options)) for options in (one, other)]
        assert engine.stats().cache_hits == 0
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert np.abs(wanted[0] - wanted[1]).max() > 1e-3  # so a wrong hit would be noticed
        engine._embed([TEXT], role, EmbedOptions(**one))
        assert engine.stats().cache_hits == 1


def test_roles_share_no_entry_unless_their_prompts_are_the_same(prompted: str) -> None:
    with EmbeddingEngine(prompted) as engine:
        engine.embed_documents([TEXT])
        engine.embed_queries([TEXT])
        assert engine.stats().cache_hits == 0
        engine.embed_queries([TEXT], instruction="")
        assert engine.stats().cache_hits == 1


@pytest.mark.parametrize("options", [{"dimensions": 8}, {"normalize": False}, {"precision": "int8"}, {"truncate": "error"}])
def test_options_applied_after_pooling_share_an_entry(options: Any) -> None:
    with EmbeddingEngine("nano") as engine:
        engine.embed_documents([TEXT])
        engine.embed_documents([TEXT], **options)
        assert engine.stats().cache_hits == 1


def test_compute_types_share_no_entry(tmp_path: Path) -> None:
    with EmbeddingEngine("nano", cache_path=tmp_path, dtype="float32") as engine:
        wanted = engine.embed_documents([TEXT])
    with EmbeddingEngine("nano", cache_path=tmp_path, dtype="bfloat16") as engine:
        rounded = engine.embed_documents([TEXT])
        assert engine.stats().cache_hits == 0
    assert 1e-5 < np.abs(rounded - wanted).max() < 0.1
    with EmbeddingEngine("nano", cache_path=tmp_path, dtype="float32") as engine:
        np.testing.assert_array_equal(engine.embed_documents([TEXT]), wanted)
        assert engine.stats().cache_hits == 1


def test_the_key_depends_on_the_models_content_not_its_folder(tmp_path: Path) -> None:
    def embed(folder: Path) -> tuple[Any, int]:
        with EmbeddingEngine(str(folder), cache_path=tmp_path / "vectors.sqlite") as engine:
            return engine.embed_documents([TEXT]), engine.stats().cache_hits

    model = shutil.copytree(NANO_FOLDER, tmp_path / "model")
    wanted, hits = embed(model)
    assert hits == 0
    copy, hits = embed(shutil.copytree(model, tmp_path / "copy"))
    assert hits == 1
    np.testing.assert_array_equal(copy, wanted)
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}), "utf-8")
    changed, hits = embed(model)
    assert hits == 0
    assert np.abs(changed - wanted).max() > 1e-3


# What is stored


def test_a_hit_is_a_read_only_copy_of_what_was_put() -> None:
    cache = MemoryCache(10**6)
    given = vector(3)
    cache.put_many([(key(1), given, 7)])
    given[:] = 0
    found, missing = cache.get_many([key(1), key(2)])
    assert missing is None
    assert found is not None
    assert (found.vector.tolist(), found.length, str(found.vector.dtype)) == ([3.0] * 8, 7, "float32")
    with pytest.raises(ValueError, match="read-only"):
        found.vector[0] = 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_never_stored(bad: float) -> None:
    cache = MemoryCache(10**6)
    broken = vector(1)
    broken[5] = bad
    cache.put_many([(key(1), broken, 1), (key(2), vector(1), 1)])
    assert [entry is not None for entry in cache.get_many([key(1), key(2)])] == [False, True]


def test_storing_a_key_again_replaces_it_and_takes_no_more_memory() -> None:
    cache = MemoryCache(10**6)
    cache.put_many([(key(1), vector(1), 1)])
    size = cache.nbytes
    cache.put_many([(key(1), vector(2), 9)])
    (found,) = cache.get_many([key(1)])
    assert found is not None
    assert (found.vector[0], found.length, len(cache), cache.nbytes) == (2, 9, 1, size)


def test_clear_drops_everything() -> None:
    cache = MemoryCache(10**6)
    cache.put_many([(key(1), vector(1), 1)])
    cache.clear()
    assert (len(cache), cache.nbytes, cache.get_many([key(1)])) == (0, 0, [None])


# The bound


def test_the_least_recently_used_goes_first() -> None:
    cache = MemoryCache(room_for(3))
    cache.put_many((key(number), vector(number), 1) for number in range(3))
    cache.get_many([key(0)])
    cache.put_many([(key(3), vector(3), 1)])
    assert [entry is not None for entry in cache.get_many([key(number) for number in range(4)])] == [
        True,
        False,
        True,
        True,
    ]


def test_a_vector_larger_than_the_bound_is_not_stored_and_displaces_nothing() -> None:
    cache = MemoryCache(room_for(2))
    cache.put_many([(key(1), vector(1), 1), (key(2), vector(2, 4096), 1)])
    assert [entry is not None for entry in cache.get_many([key(1), key(2)])] == [True, False]


def test_a_bound_of_zero_turns_the_cache_off() -> None:
    cache = MemoryCache(0)
    cache.put_many([(key(1), vector(1), 1)])
    assert (len(cache), cache.nbytes) == (0, 0)


@pytest.mark.parametrize("width", [32, 384, 1024])
def test_the_bound_holds_in_real_memory(width: int) -> None:
    bound = 2_000_000
    source = np.random.default_rng(0).standard_normal((6000, width), dtype=np.float32)
    tracemalloc.start()
    try:
        cache = MemoryCache(bound)
        empty, _ = tracemalloc.get_traced_memory()
        cache.put_many((key(number), row, number + 1000) for number, row in enumerate(source))
        used = tracemalloc.get_traced_memory()[0] - empty
    finally:
        tracemalloc.stop()
    assert len(cache) < len(source)
    assert 0.95 * bound < cache.nbytes <= bound
    assert 0.75 * cache.nbytes < used < 1.25 * cache.nbytes


# Time to live


def test_a_vector_expires_after_its_time_to_live() -> None:
    now = 0.0
    cache = MemoryCache(10**6, ttl=10, clock=lambda: now)
    cache.put_many([(key(1), vector(1), 1)])
    now = 9.9
    assert cache.get_many([key(1)]) != [None]
    now = 10.0
    assert cache.get_many([key(1)]) == [None]
    assert (len(cache), cache.nbytes) == (0, 0)


def test_storing_renews_the_time_to_live_and_reading_does_not() -> None:
    now = 0.0
    cache = MemoryCache(10**6, ttl=10, clock=lambda: now)
    cache.put_many([(key(1), vector(1), 1), (key(2), vector(2), 1)])
    now = 6.0
    cache.get_many([key(1)])
    cache.put_many([(key(2), vector(2), 1)])
    now = 12.0
    assert [entry is not None for entry in cache.get_many([key(1), key(2)])] == [False, True]


# Threads


def test_the_size_stays_right_under_many_threads() -> None:
    cache = MemoryCache(room_for(50))
    barrier = threading.Barrier(4)
    wrong: list[int] = []

    def use(seed: int) -> None:
        draw = np.random.default_rng(seed)
        barrier.wait(10)
        for numbers in draw.integers(0, 200, (300, 5)).tolist():
            cache.put_many((key(number), vector(number), number) for number in numbers)
            for number, entry in zip(numbers, cache.get_many([key(number) for number in numbers]), strict=True):
                if entry is not None and not (entry.length == number and (entry.vector == number).all()):
                    wrong.append(number)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (len(cache), cache.nbytes) == (50, room_for(50))
