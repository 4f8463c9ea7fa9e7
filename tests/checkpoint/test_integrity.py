"""What ``huggingface_hub`` lets pass and the package does not: corrupted content, and snapshots that lack files."""

import json
import os
from pathlib import Path

import huggingface_hub
import pytest

from mlx_qwen_embeddings.checkpoint.integrity import RECORD
from mlx_qwen_embeddings.errors import ModelLoadError
from tests.support.fake_hub import FakeHub
from tests.support.nano_hub import NAME, NANO, READ, WEIGHTS, blob, repository, small

pytestmark = pytest.mark.usefixtures("hub")


def spoil(path: Path) -> None:
    """Flip a bit in the middle; size and time of change stay."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def start(hub: FakeHub, cache: Path) -> None:
    """Download the files that a program needs that knows nothing of pooling."""
    for path in ("config.json", "tokenizer.json", WEIGHTS):
        huggingface_hub.hf_hub_download(NAME, path, cache_dir=cache, endpoint=hub.url)


def snapshot(hub: FakeHub, cache: Path, *, local_files_only: bool = False) -> Path:
    """Return the snapshot that ``huggingface_hub`` by itself returns."""
    patterns = ["*.json", "*.safetensors", "1_Pooling/*.json"]
    return Path(
        huggingface_hub.snapshot_download(
            NAME, cache_dir=cache, endpoint=hub.url, allow_patterns=patterns, local_files_only=local_files_only
        )
    )


# What huggingface_hub does by itself. When one of these fails, a part of checkpoint/integrity.py may no longer be needed.


@pytest.mark.parametrize("content", [NANO[WEIGHTS][:-1], NANO[WEIGHTS] + b"?"], ids=["short", "long"])
def test_huggingface_hub_refuses_a_large_file_of_the_wrong_size(content: bytes, hub: FakeHub, tmp_path: Path) -> None:
    hub.bodies[WEIGHTS] = content
    with pytest.raises(OSError, match="Consistency check failed"):
        snapshot(hub, tmp_path)
    with pytest.raises(ModelLoadError, match="could not be downloaded: Consistency check failed"):
        small(tmp_path)
    assert not blob(tmp_path).exists()


def test_huggingface_hub_passes_a_corrupted_file_of_the_right_size(hub: FakeHub, tmp_path: Path) -> None:
    hub.bodies[WEIGHTS] = NANO[WEIGHTS][:-1] + b"?"
    assert (snapshot(hub, tmp_path) / WEIGHTS).read_bytes() != NANO[WEIGHTS]


def test_huggingface_hub_passes_a_file_that_changed_on_the_disk(hub: FakeHub, tmp_path: Path) -> None:
    folder = snapshot(hub, tmp_path)
    blob(tmp_path).write_bytes(NANO[WEIGHTS][:-1])
    assert snapshot(hub, tmp_path) == folder
    assert (folder / WEIGHTS).read_bytes() != NANO[WEIGHTS]


def test_huggingface_hub_takes_a_started_snapshot_for_a_complete_one(hub: FakeHub, tmp_path: Path) -> None:
    start(hub, tmp_path)
    assert not (snapshot(hub, tmp_path, local_files_only=True) / "modules.json").exists()


# Content


@pytest.mark.parametrize("path", [WEIGHTS, "tokenizer.json"])
def test_a_corrupted_download_of_the_right_size_is_refused(hub: FakeHub, tmp_path: Path, path: str) -> None:
    hub.bodies[path] = NANO[path][:-1] + b"?"
    for _ in range(2):
        with pytest.raises(ModelLoadError, match=rf"{path} in .* is not what the Hub announced .* try again"):
            small(tmp_path)
        assert not blob(tmp_path, path).exists()
    with pytest.raises(ModelLoadError, match="offline mode is on"):
        small(tmp_path, offline=True)
    hub.bodies.clear()
    assert (small(tmp_path) / path).read_bytes() == NANO[path]


def test_a_file_is_hashed_once_and_again_after_a_change(tmp_path: Path) -> None:
    folder = small(tmp_path)
    spoil(blob(tmp_path))
    assert small(tmp_path) == folder  # same size and time of change, so it counts as checked
    os.utime(blob(tmp_path))
    with pytest.raises(ModelLoadError, match="not what the Hub announced"):
        small(tmp_path)


@pytest.mark.parametrize("record", [None, "", "[]", '{"files": []}', '{"files": {}, "complete": {}}'])
def test_without_a_usable_record_files_are_hashed_again(tmp_path: Path, record: str | None) -> None:
    small(tmp_path)
    path = repository(tmp_path) / RECORD
    path.unlink() if record is None else path.write_text(record)
    spoil(blob(tmp_path))
    with pytest.raises(ModelLoadError, match="not what the Hub announced"):
        small(tmp_path, offline=True)


def test_the_other_files_are_recorded_when_one_is_corrupted(hub: FakeHub, tmp_path: Path) -> None:
    hub.bodies[WEIGHTS] = bytes(len(NANO[WEIGHTS]))
    with pytest.raises(ModelLoadError, match=f"^{WEIGHTS} in"):
        small(tmp_path)
    record = json.loads((repository(tmp_path) / RECORD).read_text())
    assert list(record["files"]) == [blob(tmp_path, "tokenizer.json").name]


@pytest.mark.parametrize("place", ["cache", "elsewhere"])
def test_a_blob_may_be_a_link_and_only_the_cache_is_cleaned(tmp_path: Path, place: str) -> None:
    cache = tmp_path / "cache"
    folder = small(cache)
    # As in the store that models share since huggingface_hub 2, where names are another hash of 64 digits.
    content = (cache / "blobs" / "ab" if place == "cache" else tmp_path) / ("ab" * 32)
    content.parent.mkdir(parents=True, exist_ok=True)
    blob(cache).rename(content)
    blob(cache).symlink_to(content)
    (repository(cache) / RECORD).unlink()
    assert small(cache, offline=True) == folder
    spoil(content)
    os.utime(content)
    with pytest.raises(ModelLoadError, match="It was removed"):
        small(cache, offline=True)
    assert not blob(cache).is_symlink()
    assert content.exists() == (place == "elsewhere")
    assert (small(cache) / WEIGHTS).read_bytes() == NANO[WEIGHTS]


def test_a_cache_that_cannot_be_written_is_used(hub: FakeHub, tmp_path: Path) -> None:
    folder = small(tmp_path)
    record = repository(tmp_path) / RECORD
    record.unlink()
    record.with_name(
        f"{RECORD}.tmp"
    ).mkdir()  # root may write to a read-only folder, but no one may open a folder for writing
    folders = [path for path in (tmp_path, *tmp_path.rglob("*")) if path.is_dir() and not path.is_symlink()]
    hub.log.clear()
    try:
        for path in folders:
            path.chmod(0o555)
        assert small(tmp_path) == folder
    finally:
        for path in folders:
            path.chmod(0o755)
    assert not any("/resolve/" in request or "/store/" in request for request in hub.log)
    assert not record.exists()


def test_a_corrupted_file_that_cannot_be_removed_is_refused_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path)
    spoil(blob(tmp_path))
    os.utime(blob(tmp_path))

    def fail(path: Path, *, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", fail)
    for _ in range(2):
        with pytest.raises(ModelLoadError, match=f"delete .*{blob(tmp_path).name} and try again"):
            small(tmp_path)


# Completeness


def test_a_snapshot_that_another_program_started_is_completed(hub: FakeHub, tmp_path: Path) -> None:
    start(hub, tmp_path)
    folder = small(tmp_path)
    assert all((folder / path).is_file() for path in READ)
    assert sum(request.endswith(blob(tmp_path).name) for request in hub.log) == 1


def test_a_started_snapshot_is_used_with_a_warning_when_it_cannot_be_completed(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(hub, tmp_path)
    hub.refusal = (503, "")
    folder = small(tmp_path)
    assert not (folder / "modules.json").exists()
    assert "could not be completed: it is used as it is" in caplog.text
    assert "status 503" in caplog.text
    hub.refusal = None
    assert (small(tmp_path) / "modules.json").is_file()
