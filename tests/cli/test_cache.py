"""``mlx-qwen cache``: complete outputs, exit statuses, and what is left in the file."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.cached_vectors import make, row, there
from tests.support.command_line import run as run_command

SEPTEMBER = 1_000_000_000.0
"""2001-09-09 01:46:40 UTC."""


def run(*arguments: object, answer: str = "") -> tuple[int, str, str]:
    return run_command("cache", *arguments, stdin=answer)


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_QWEN_CACHE_PATH", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a cache of 30 vectors that were stored in 2001. Ten of them were used a day later."""
    path = tmp_path / "vectors.sqlite"
    now = SEPTEMBER
    with closing(make(path, clock=lambda: now)) as cache:
        cache.put_many(row(number) for number in range(30))
        now += 86_400
        there(cache, range(10))
        cache.write_uses()
    return path


def kept(path: Path) -> list[int]:
    with closing(make(path)) as cache:
        return there(cache, range(30))


def damage(path: Path, start: int) -> None:
    content = bytearray(path.read_bytes())
    content[start:] = b"\xa5" * (len(content) - start)
    path.write_bytes(content)


def test_info_prints_counts_sizes_and_times(path: Path) -> None:
    size = f"{path.stat().st_size / 1000:.1f} kB"
    status, out, err = run("info", path)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"file       {path}",
        "vectors    30",
        f"in use     {size}",
        f"on disk    {size}",
        "last used  2001-09-09 01:46 to 2001-09-10 01:46 UTC",
    ]


def test_info_as_json_of_the_folder_in_the_variable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_QWEN_CACHE_PATH", str(path.parent))
    status, out, err = run("info", "--json")
    size = path.stat().st_size
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "path": str(path),
        "entries": 30,
        "file_bytes": size,
        "used_bytes": size,
        "oldest": SEPTEMBER,
        "newest": SEPTEMBER + 86_400,
    }


def test_info_of_an_empty_cache(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    with closing(make(path)) as cache:
        cache.get_many([b"x"])
    status, out, _ = run("info", path)
    assert (status, out.splitlines()[1], len(out.splitlines())) == (0, "vectors  0", 4)


def test_clear_asks_and_then_deletes_everything(path: Path) -> None:
    status, out, _ = run("clear", path, answer="n\n")
    assert (status, out) == (1, f"Delete everything in {path}? [y/N]: n\n")
    assert kept(path) == list(range(30))
    before = path.stat().st_size
    assert run("clear", path, "--yes") == (0, f"deleted 30 vectors; {path} is empty\n", "")
    assert kept(path) == []
    assert path.stat().st_size < before


def test_clear_while_the_cache_is_open_elsewhere(path: Path) -> None:
    with closing(make(path)) as cache:
        assert there(cache, [1]) == [1]
        assert run("clear", path, "--yes")[0] == 0
        assert there(cache, [1]) == []
        cache.put_many([row(2)])
        assert there(cache, [1, 2]) == [2]


def test_clear_deletes_a_broken_cache(path: Path) -> None:
    damage(path, 100)
    status, _, err = run("info", path)
    assert (status, err.count("\n")) == (1, 1)
    assert f"run mlx-qwen cache clear '{path}'" in err
    assert run("clear", path, "--yes") == (
        0,
        f"{path} was broken (database disk image is malformed) and has been deleted\n",
        "",
    )
    assert list(path.parent.iterdir()) == []


def test_clear_deletes_a_cache_with_a_name_inside_that_is_not_utf8(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"tablevectorsvectors", b"table\xd4ectors\xd4ectors"))
    status, out, err = run("clear", path, "--yes")
    assert (status, err) == (0, "")
    assert out.startswith(f"{path} was broken ('utf-8' codec can't decode")
    assert list(path.parent.iterdir()) == []


def test_clear_does_not_delete_other_files(path: Path) -> None:
    path.write_text("a diary, in prose " * 1000)
    status, _, err = run("clear", path, "--yes")
    remedy = "if it was a cache, it is broken: delete it; if not, name another file in cache_path"
    assert (status, err) == (1, f"mlx-qwen: {path}: file is not a database; {remedy}\n")
    assert path.read_text().startswith("a diary")


def test_prune_deletes_vectors_unused_for_long(path: Path) -> None:
    days = (1_700_000_000 - SEPTEMBER) / 86_400
    _, out, _ = run("prune", path, "--unused-days", 1e5)
    assert out.startswith("deleted 0 vectors; 30 vectors left, ")
    with closing(make(path)) as cache:
        cache.get_many([row(7)[0]])  # used today
    status, out, err = run("prune", path, "--unused-days", days / 2)
    assert (status, err) == (0, "")
    assert out == f"deleted 29 vectors; 1 vector left, {path.stat().st_size / 1000:.1f} kB on disk\n"
    assert kept(path) == [7]


def test_prune_deletes_old_vectors_even_if_they_are_used(path: Path) -> None:
    with closing(make(path)) as cache:
        cache.put_many([row(3)])
    assert run("prune", path, "--older-days", 365)[1].startswith("deleted 29 vectors; 1 vector left")
    assert kept(path) == [3]


def test_prune_to_a_size_keeps_recently_used_vectors_and_shrinks_the_file(path: Path) -> None:
    with closing(make(path)) as cache:
        cache.put_many(row(number, 384) for number in range(1000, 1500))
        there(cache, range(10))
    status, out, _ = run("prune", path, "--max-bytes", 300_000)
    assert status == 0
    assert out.endswith(f", {path.stat().st_size / 1000:.1f} kB on disk\n")
    assert path.stat().st_size <= 300_000
    assert kept(path) == list(range(10))


@pytest.mark.parametrize("arguments", [("info",), ("clear", "--yes"), ("prune", "--max-bytes", "1"), ("prune", "x.sqlite")])
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: mlx-qwen cache" in err


@pytest.mark.parametrize("arguments", [("info",), ("clear", "--yes"), ("prune", "--max-bytes", 1)])
def test_a_missing_cache_is_an_error_of_one_line_and_is_not_created(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    status, out, err = run(*arguments, tmp_path)
    expected = f"there is no cache at {tmp_path}/vectors.sqlite: nothing was stored yet, or it is elsewhere"
    assert (status, out, err) == (1, "", f"mlx-qwen: {expected}\n")
    assert list(tmp_path.iterdir()) == []
