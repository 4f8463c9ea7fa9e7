"""The persistent cache: what it keeps, how much, for how long, and in which precision."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings, get_engine
from mlx_qwen_embeddings.cache import sqlite as sqlite_cache
from mlx_qwen_embeddings.cache.sqlite import SqliteCache
from mlx_qwen_embeddings.cache.sqlite_file import CacheFile
from mlx_qwen_embeddings.cache.tiered import TieredCache
from mlx_qwen_embeddings.engine import shared
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from mlx_qwen_embeddings.stats import StatsCounter
from mlx_qwen_embeddings.tools.verify import verify
from tests.support.cached_vectors import Array, is_right, key, make, row, there, vector


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "vectors.sqlite"


@pytest.fixture
def cache(path: Path) -> Iterator[SqliteCache]:
    with closing(make(path)) as cache:
        yield cache


def number_of_commits(path: Path) -> int:
    """Return what changes with every commit: the size of the journal, and when it was last written."""
    journal = path.with_name(path.name + "-wal").stat()
    return journal.st_mtime_ns + journal.st_size


# What is kept


def test_vectors_come_back_bit_for_bit_also_after_reopening(cache: SqliteCache, path: Path) -> None:
    cache.put_many(row(number) for number in range(1200))
    assert there(cache, range(1300)) == list(range(1200))
    cache.close()
    with closing(make(path)) as later:
        assert there(later, range(1300)) == list(range(1200))


def test_keys_may_repeat_within_a_call(cache: SqliteCache) -> None:
    cache.put_many([(key(1), vector(2), 2), row(1), row(3)])
    found = cache.get_many([key(1), key(3), key(1), key(9)])
    assert [entry and is_right(number, entry) for number, entry in zip((1, 3, 1, 9), found, strict=True)] == [
        True,
        True,
        True,
        None,
    ]


def test_storing_a_key_again_replaces_it(cache: SqliteCache, path: Path) -> None:
    cache.put_many([(key(1), vector(2), 2)])
    cache.put_many([row(1)])
    assert there(cache, [1]) == [1]
    with closing(CacheFile(path, seconds=1)) as file:
        assert file.info().entries == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_never_stored(cache: SqliteCache, bad: float) -> None:
    broken = vector(1)
    broken[5] = bad
    cache.put_many([(key(1), broken, 1), row(2)])
    assert there(cache, [1, 2]) == [2]


def test_empty_calls_are_allowed(cache: SqliteCache) -> None:
    cache.put_many([])
    assert cache.get_many([]) == []


def test_a_commit_outlives_the_process_and_a_power_cut_breaks_no_file(path: Path) -> None:
    # With write-ahead logging, NORMAL (1) syncs the journal before it is copied into the file. OFF (0) would let a power
    # cut break the file, FULL (2) would wait for the disk at every commit.
    with closing(CacheFile(path, seconds=1)) as file:
        assert file._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert file._pragma("synchronous") == 1


def test_after_close_everything_is_a_miss(cache: SqliteCache) -> None:
    cache.put_many([row(1)])
    cache.close()
    cache.put_many([row(2)])
    assert cache.get_many([key(1), key(2)]) == [None, None]


# Precision


def wide_range() -> Array:
    exponents = np.random.default_rng(0).uniform(-20, 15.9, 4096)
    signs = np.random.default_rng(1).choice([-1, 1], 4096)
    return np.asarray(2**exponents * signs, dtype=np.float32)


def test_float16_halves_the_size_and_rounds_within_the_documented_error(tmp_path: Path) -> None:
    given = wide_range()
    sizes = {}
    for precision in ("float32", "float16"):
        path = tmp_path / precision
        with closing(make(path, precision=precision)) as cache:
            cache.put_many((key(number), given, number) for number in range(50))
            (found,) = cache.get_many([key(7)])
        assert found is not None
        allowed = 0 if precision == "float32" else np.maximum(np.abs(given) * 2.0**-11, 2.0**-25)
        assert (np.abs(found.vector - given) <= allowed).all()
        assert found.vector.dtype == np.float32
        sizes[precision] = path.stat().st_size
    assert 0.4 < sizes["float16"] / sizes["float32"] < 0.6


def test_what_float16_cannot_hold_stays_float32(path: Path) -> None:
    given = np.array([70_000, 1e-9, -1], dtype=np.float32)
    with closing(make(path, precision="float16")) as cache:
        cache.put_many([(key(1), given, 1)])
        (found,) = cache.get_many([key(1)])
    assert found is not None
    np.testing.assert_array_equal(found.vector, given)


def test_a_float32_cache_never_returns_a_rounded_vector(path: Path) -> None:
    with closing(make(path, precision="float16")) as rounding, closing(make(path)) as exact:
        rounding.put_many([row(1)])
        assert exact.get_many([key(1)]) == [None]
        exact.put_many([row(1)])
        assert there(exact, [1]) == there(rounding, [1]) == [1]


# The bound


def test_the_file_stays_within_its_bound(path: Path) -> None:
    bound = 2**21
    with closing(make(path, max_bytes=bound)) as cache:
        for start in range(0, 3000, 50):
            cache.put_many(row(number, 384) for number in range(start, start + 50))
        kept = there(cache, range(3000))
    assert path.stat().st_size <= bound + 50 * 384 * 4 * 2  # a transaction adds before it drops
    assert kept == list(range(kept[0], 3000))
    assert len(kept) * 384 * 4 > 0.65 * bound


def test_a_vector_larger_than_the_bound_is_not_kept(path: Path) -> None:
    with closing(make(path, max_bytes=2**20)) as cache:
        cache.put_many([(key(1), vector(1, 2**19), 1)])
        assert cache.get_many([key(1)]) == [None]
        cache.put_many([row(2)])
        assert there(cache, [1, 2]) == [2]


@pytest.mark.parametrize("read_from_memory", [False, True])
def test_the_least_recently_used_goes_first(path: Path, *, read_from_memory: bool) -> None:
    now = 1.0
    with closing(make(path, max_bytes=2**20, clock=lambda: now)) as cache:
        cache.put_many(row(number, 384) for number in range(400))
        now = 2.0
        used = [key(number) for number in range(0, 400, 5)]
        if read_from_memory:
            cache.touch(used)
        else:
            cache.get_many(used)
        cache.write_uses()
        now = 3.0
        cache.put_many(row(number, 384) for number in range(400, 600))
        kept = there(cache, range(600))
    assert set(range(0, 400, 5)) | set(range(400, 600)) <= set(kept)
    assert len(kept) < 600


def test_a_single_hit_writes_nothing_and_many_hits_write_once(
    cache: SqliteCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_cache, "TOUCHED_KEYS", 100)
    cache.put_many(row(number) for number in range(60))
    before = number_of_commits(path)
    there(cache, range(60))
    assert number_of_commits(path) == before
    there(cache, range(60))
    assert number_of_commits(path) != before


def test_uses_are_written_after_a_while_and_on_close(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.0
    cache = make(path, clock=lambda: now)
    cache.put_many([row(1)])
    cache.write_uses()

    def last_use() -> float | None:
        with closing(CacheFile(path, seconds=1)) as file:
            return file.info().newest

    now = 2.0
    cache.touch([key(1)])
    assert last_use() == 1
    monkeypatch.setattr(sqlite_cache, "TOUCH_SECONDS", 0)
    cache.touch([])
    assert last_use() == 2
    monkeypatch.setattr(sqlite_cache, "TOUCH_SECONDS", 60)
    now = 3.0
    cache.touch([key(1)])
    cache.close()
    assert last_use() == 3


def test_what_memory_serves_counts_as_used_in_the_file(path: Path) -> None:
    now = 1.0
    file = make(path, clock=lambda: now)
    with closing(TieredCache(10**6, file, StatsCounter())) as both:
        both.put_many([row(1)])
        now = 2.0
        both.get_many([key(1), key(2)])
    with closing(CacheFile(path, seconds=1)) as later:
        assert later.info().newest == 2


# Time to live


def test_a_vector_expires_whatever_is_read(path: Path) -> None:
    now = 1000.0
    with closing(make(path, ttl=10, clock=lambda: now)) as cache:
        cache.put_many([row(1), row(2)])
        now = 1009.9
        assert there(cache, [1, 2]) == [1, 2]
        cache.put_many([row(2)])
        now = 1010.0
        assert there(cache, [1, 2]) == [2]
    with closing(make(path, clock=lambda: now)) as other:
        assert there(other, [1, 2]) == [1, 2]


@pytest.mark.parametrize("read_from_memory", [False, True])
def test_use_does_not_renew_the_time_to_live(path: Path, *, read_from_memory: bool) -> None:
    now = 1000.0
    with closing(make(path, ttl=10, clock=lambda: now)) as cache:
        cache.put_many([row(1)])
        now = 1009.0
        if read_from_memory:
            cache.touch([key(1)])
        else:
            cache.get_many([key(1)])
        cache.write_uses()
        now = 1010.0
        assert there(cache, [1]) == []
    with closing(CacheFile(path, seconds=1)) as file:
        assert file.info().newest == 1009  # the use was written


@pytest.mark.parametrize("ttl", [float("inf"), 1e17])
def test_an_endless_time_to_live(path: Path, ttl: float) -> None:
    with closing(make(path, ttl=ttl)) as cache:
        cache.put_many([row(1)])
        assert there(cache, [1, 2]) == [1]


# A damaged entry


def test_every_flipped_bit_of_an_entry_is_a_miss(cache: SqliteCache, path: Path) -> None:
    cache.put_many([row(1, 4)])
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        (data,) = raw.execute("SELECT data FROM vectors").fetchone()
        for bit in range(len(data) * 8):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            raw.execute("UPDATE vectors SET data = ?", (bytes(flipped),))
            assert cache.get_many([key(1)]) == [None], bit
        raw.execute("UPDATE vectors SET data = ?", (data,))
    assert there(cache, [1]) == [1]


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 24, "text", 7, 1.5])
def test_malformed_data_is_a_miss(cache: SqliteCache, path: Path, data: object) -> None:
    cache.put_many([row(1)])
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("UPDATE vectors SET data = ?", (data,))
    assert cache.get_many([key(1)]) == [None]


def test_a_vector_under_the_wrong_key_is_a_miss_and_gets_replaced(cache: SqliteCache, path: Path) -> None:
    cache.put_many([row(1), row(2)])
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        (first,), (second,) = raw.execute("SELECT data FROM vectors ORDER BY id").fetchall()
        raw.execute("UPDATE vectors SET data = CASE id WHEN 1 THEN ? ELSE ? END", (second, first))
    assert cache.get_many([key(1), key(2)]) == [None, None]
    cache.put_many([row(1), row(2)])
    assert there(cache, [1, 2]) == [1, 2]


# Behind an engine


def test_a_later_engine_reads_what_an_earlier_one_computed(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(20)]
    with EmbeddingEngine("nano", cache_path=tmp_path) as engine:
        computed = engine.embed_documents(texts)
        engine.embed_documents(texts, dimensions=64)
        first = engine.stats()
    with EmbeddingEngine("nano", cache_path=tmp_path / "vectors.sqlite") as engine:
        np.testing.assert_array_equal(engine.embed_documents(texts), computed)
        engine.embed_documents(texts)
        second = engine.stats()
    assert (first.cache_misses, first.cache_hits, first.persistent_hits) == (20, 20, 0)
    assert (second.cache_misses, second.cache_hits, second.persistent_hits, second.batches) == (0, 40, 20, 0)


@pytest.mark.parametrize("options", [{"cache_bytes": 0}, {"cache_ttl": 3600}], ids=str)
def test_without_memory_or_with_a_time_to_live_the_file_serves_each_call(tmp_path: Path, options: dict[str, Any]) -> None:
    with EmbeddingEngine("nano", cache_path=tmp_path) as engine:
        engine.embed_documents(["a"])
    with EmbeddingEngine("nano", cache_path=tmp_path, **options) as engine:
        for _ in range(2):
            engine.embed_documents(["a"])
        assert (engine.stats().persistent_hits, engine.stats().batches) == (2, 0)


def test_the_environment_can_turn_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_QWEN_CACHE_PATH", str(tmp_path))
    with EmbeddingEngine("nano") as engine:
        engine.embed_query("a")
    assert (tmp_path / "vectors.sqlite").exists()


def test_it_serves_both_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_engines", {})
    monkeypatch.setenv("MLX_QWEN_CACHE_PATH", str(tmp_path))
    with get_engine("nano"):
        first = MLXQwenEmbeddings("nano").embed_query("a")
    with get_engine("nano") as engine:
        assert MLXQwenEmbedding("nano").get_query_embedding("a") == first
        assert (engine.stats().persistent_hits, engine.stats().batches) == (1, 0)


def test_sqlite_is_only_imported_when_the_cache_is_asked_for() -> None:
    program = (
        "import sys\nsys.modules['sqlite3'] = None\nfrom mlx_qwen_embeddings import EmbeddingEngine\n"
        "with EmbeddingEngine('nano') as engine:\n    print(engine.embed_query('a').shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "(384,)\n"


def test_an_engine_that_is_garbage_collected_leaves_an_intact_file(tmp_path: Path) -> None:
    EmbeddingEngine("nano", cache_path=tmp_path).embed_query("a")
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.sqlite"]


def test_verify_computes_and_does_not_read_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_QWEN_CACHE_PATH", str(tmp_path))
    assert verify("nano").ok
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{folder}", "{folder}/vectors.sqlite"),
        ("{folder}/new", "{folder}/new/vectors.sqlite"),
        ("{folder}/my.db", "{folder}/my.db"),
        ("{folder}/dotted.d", "{folder}/dotted.d/vectors.sqlite"),
        ("~/vectors.db", "{folder}/vectors.db"),
        ("~", "{folder}/vectors.sqlite"),
    ],
)
def test_the_path_may_be_a_file_or_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "dotted.d").mkdir()
    settings = EngineSettings(cache_path=Path(given.format(folder=tmp_path)))
    assert str(settings.cache_path) == expected.format(folder=tmp_path)
    assert EngineSettings(**settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache_path_bytes", 1000),
        ("cache_precision", "float64"),
        ("max_loaded_models", 0),
        ("max_model_bytes", 0),
    ],
)
def test_an_invalid_setting_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        EngineSettings.model_validate({field: value})
