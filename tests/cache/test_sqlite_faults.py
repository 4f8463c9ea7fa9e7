"""Whatever is wrong with the file of the persistent cache, calls work, vectors are right, and one warning is logged."""

import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.cache import sqlite as sqlite_cache
from mlx_qwen_embeddings.cache import sqlite_file as cache_file
from mlx_qwen_embeddings.cache.sqlite import SqliteCache
from mlx_qwen_embeddings.cache.sqlite_file import APPLICATION, CacheFile
from tests.support.cached_vectors import make, row, there

NUMBERS = range(200)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.sqlite"


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_cache, "READ_SECONDS", 0.05)
    monkeypatch.setattr(sqlite_cache, "WRITE_SECONDS", 0.05)


@pytest.fixture
def again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_cache, "RETRY_SECONDS", 0)


def filled(path: Path) -> bytes:
    """Make a cache with all numbers, and return the content of its file."""
    with closing(make(path)) as cache:
        cache.put_many(row(number) for number in NUMBERS)
    return path.read_bytes()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def use(cache: SqliteCache) -> None:
    """Read and write a few times."""
    for number in range(3):
        there(cache, [1, 2, number])
        cache.put_many([row(1000 + number)])
        cache.touch([row(1)[0]])
        cache.write_uses()


# Faults, each with words from its warning


@contextmanager
def below_a_file(path: Path) -> Iterator[Path]:
    path.write_text("no folder")
    yield path / "vectors.sqlite"


@contextmanager
def a_folder(path: Path) -> Iterator[Path]:
    path.mkdir()
    yield path


@contextmanager
def garbage(path: Path) -> Iterator[Path]:
    path.write_bytes(b"nothing that SQLite knows. " * 1000)
    yield path


@contextmanager
def broken_inside(path: Path) -> Iterator[Path]:
    content = bytearray(filled(path))
    content[cache_file.PAGE_BYTES :] = os.urandom(len(content) - cache_file.PAGE_BYTES)
    path.write_bytes(content)
    yield path


@contextmanager
def cut(path: Path) -> Iterator[Path]:
    content = filled(path)
    path.write_bytes(content[: len(content) // 3])
    yield path


@contextmanager
def renamed_inside(path: Path) -> Iterator[Path]:
    """Put a byte into the name of a table that is not UTF-8: Python cannot decode SQLite's message about it."""
    path.write_bytes(filled(path).replace(b"tablevectorsvectors", b"table\xd4ectors\xd4ectors"))
    yield path


@contextmanager
def locked(path: Path) -> Iterator[Path]:
    filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield path


@contextmanager
def another_programs(path: Path) -> Iterator[Path]:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE diary (entry TEXT)")
    yield path


@contextmanager
def from_the_future(path: Path) -> Iterator[Path]:
    filled(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    yield path


Fault = Callable[[Path], AbstractContextManager[Path]]

faults = pytest.mark.parametrize(
    ("fault", "words"),
    [
        (below_a_file, "make its folder one that this user may write to"),
        (a_folder, "make its folder one that this user may write to"),
        (garbage, "delete it"),
        (broken_inside, "run mlx-qwen cache clear"),
        (cut, "run mlx-qwen cache clear"),
        (renamed_inside, "run mlx-qwen cache clear"),
        (locked, "end the program that holds it"),
        (another_programs, "is a database of another program: name another file"),
        (
            from_the_future,
            "newer mlx-qwen-embeddings (schema 99, this one reads 1) and is left as it is: update",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)


@faults
@pytest.mark.usefixtures("again_at_once")
def test_the_cache_is_left_out_with_one_warning(
    path: Path, fault: Fault, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with fault(path) as place, closing(make(place)) as cache:
        use(cache)
    (said,) = warnings(caplog)
    assert str(place) in said
    assert words in said


@faults
def test_an_engine_works_without_it(
    path: Path, fault: Fault, words: str, caplog: pytest.LogCaptureFixture, plain: NDArray[np.float32]
) -> None:
    with fault(path) as place, EmbeddingEngine("nano", cache_path=place) as engine:
        # The engine puts its file into a folder, so that is no fault.
        for _ in range(2):
            np.testing.assert_allclose(engine.embed_documents(TEXTS), plain, atol=1e-6)
        assert engine.stats().persistent_hits == 0
    assert len(warnings(caplog)) == (0 if fault is a_folder else 1)
    assert all(words in said for said in warnings(caplog))


TEXTS = [f"text {number}" for number in range(20)]


@pytest.fixture(scope="module")
def plain() -> NDArray[np.float32]:
    with EmbeddingEngine("nano") as engine:
        return engine.embed_documents(TEXTS)


@pytest.mark.parametrize("fault", [garbage, another_programs, from_the_future])
def test_a_file_that_is_no_cache_of_this_package_is_not_touched(path: Path, fault: Fault) -> None:
    with fault(path) as place:
        before = place.read_bytes()
        with closing(make(place)) as cache:
            use(cache)
        assert place.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_with_an_older_schema_is_emptied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute('CREATE TABLE "of ""old""" (x)')
    monkeypatch.setattr(cache_file, "SCHEMA", 2)
    with closing(make(path)) as cache:
        assert there(cache, NUMBERS) == []
        cache.put_many([row(1)])
        assert there(cache, NUMBERS) == [1]
    with closing(sqlite3.connect(path)) as other:
        tables = other.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        assert tables == [("entries",), ("vectors",)]
        assert other.execute("PRAGMA user_version").fetchone() == (2,)


# Faults that pass


def test_after_a_failure_it_is_not_used_for_a_while(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr("mlx_qwen_embeddings.cache.sqlite.time.monotonic", lambda: now)
    with closing(make(path)) as cache:
        with locked(path):
            cache.put_many([row(1000)])
        cache.put_many([row(1001)])
        assert there(cache, [1, 1001]) == []
        now += sqlite_cache.RETRY_SECONDS
        cache.put_many([row(1002)])
        assert there(cache, [1, 1000, 1001, 1002]) == [1, 1002]
    assert len(warnings(caplog)) == 1


@pytest.mark.usefixtures("again_at_once")
def test_a_full_disk_can_still_be_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(make(path)) as cache:
        cache.put_many(row(number) for number in NUMBERS)
        file = cache._writer.open()
        file._connection.execute(f"PRAGMA max_page_count = {file._pragma('page_count')}")
        cache.put_many(row(number) for number in range(1000, 1200))
        assert there(cache, [*NUMBERS, 1000]) == list(NUMBERS)
        cache.put_many([row(1001)])  # over a new connection, without the limit
        assert there(cache, [1000, 1001]) == [1001]
    (said,) = warnings(caplog)
    assert "disk is full; make room on its disk" in said


FILE_SIZE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.support.cached_vectors import make, row, there
from mlx_qwen_embeddings.cache import sqlite as sqlite_cache
sqlite_cache.RETRY_SECONDS = 0
cache = make(Path({path!r}))
cache.put_many(row(number) for number in range(20))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for start in range(100, 1000, 20):
    cache.put_many(row(number) for number in range(start, start + 20))
found = there(cache, list(range(1000)))
print(found[:20] == list(range(20)), len(found) < 900)
cache.close()
"""

READ_ONLY = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.support.cached_vectors import make, row, there
known = row(1)
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere; from here on nothing can be imported
cache = make(Path({path!r}))
print(there(cache, [1]))
cache.put_many([known])
print(there(cache, [1]))
"""


def run(program: str, path: Path) -> tuple[str, str]:
    code = program.format(tests=str(Path(__file__).parents[2]), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout, done.stderr


def test_refused_writes_leave_an_intact_file(path: Path) -> None:
    out, err = run(FILE_SIZE, path)
    assert out == "True True\n"
    assert err.count("the persistent cache is left out") == err.count("its disk is full or fails") == 1
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with closing(make(path)) as cache:
        assert there(cache, range(20)) == list(range(20))


@pytest.mark.parametrize("exists", [False, True])
def test_a_read_only_folder(*, exists: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        if exists:
            filled(folder / "vectors.sqlite")
            (folder / "vectors.sqlite").chmod(0o444)
        folder.chmod(0o555)
        out, err = run(READ_ONLY, folder / "vectors.sqlite")
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert out == "[]\n[]\n"
    assert err.count("\n") == 1
    assert "make its folder one that this user may write to" in err


# Random damage


def damaged(content: bytes, seed: int) -> bytes:
    """Flip some bits, or overwrite, cut or repeat a stretch, anywhere in a file."""
    draw = random.Random(seed)
    changed = bytearray(content)
    start = draw.randrange(len(changed))
    end = min(len(changed), start + draw.choice([1, 16, 512, 5000]))
    match seed % 4:
        case 0:
            for _ in range(draw.choice([1, 10, 1000])):
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        case 1:
            changed[start:end] = draw.randbytes(end - start)
        case 2:
            del changed[start:]
        case 3:
            changed[start:end] = bytes(end - start)
    return bytes(changed)


@pytest.mark.usefixtures("again_at_once")
def test_random_damage_never_causes_a_wrong_vector_or_an_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = filled(path)
    assert content[68:72] == APPLICATION.to_bytes(4, "big")
    missed = 0
    for seed in range(80):
        for leftover in path.parent.iterdir():
            leftover.unlink()
        path.write_bytes(damaged(content, seed))
        caplog.clear()
        with closing(make(path, max_bytes=2**20)) as cache:
            missed += len(NUMBERS) - len(there(cache, NUMBERS))
            use(cache)
            cache.put_many(row(number) for number in NUMBERS)
            there(cache, NUMBERS)
        assert len(warnings(caplog)) <= 1
    assert missed > 0


def test_a_damaged_journal_loses_only_its_own_commits(path: Path) -> None:
    filled(path)
    journal = path.with_name(path.name + "-wal")
    for seed in range(12):
        cache = make(path)
        cache.put_many([row(2000 + seed)])
        copies = {file: file.read_bytes() for file in (path, journal)}
        cache.close()
        for file, content in copies.items():
            file.write_bytes(damaged(content, seed) if file == journal else content)
        with closing(make(path)) as later:
            assert there(later, NUMBERS) == list(NUMBERS)


def test_a_deleted_file_is_made_again(path: Path) -> None:
    with closing(make(path)) as cache:
        cache.put_many([row(1)])
        assert there(cache, [1]) == [1]
        for file in path.parent.iterdir():
            file.unlink()
        assert there(cache, [1]) == []
        cache.put_many([row(2)])
        assert there(cache, [1, 2]) == [2]
        with closing(CacheFile(path, seconds=1)) as other:
            assert other.info().entries == 1
