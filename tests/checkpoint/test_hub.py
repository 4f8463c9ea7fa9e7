"""The way to a model on the Hugging Face Hub, over a small Hub on loopback that serves nano under the name of "small"."""

import collections
import json
import os
import pty
import re
import subprocess
import sys
import termios
import types
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine, get_engine
from mlx_qwen_embeddings.checkpoint.fingerprint import fingerprint
from mlx_qwen_embeddings.checkpoint.hub import ATTEMPTS, open_folder
from mlx_qwen_embeddings.checkpoint.integrity import RECORD
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.registry import NANO_FOLDER, resolve
from tests.support.fake_hub import Cut, FakeHub, etag

NAME = "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"
WEIGHTS = "model.safetensors"
MAIN, OLD = "a" * 40, "b" * 40
NANO = {str(path.relative_to(NANO_FOLDER)): path.read_bytes() for path in NANO_FOLDER.rglob("*") if path.is_file()}
READ = {path for path in NANO if path.endswith((".json", ".safetensors"))}
PROGRAM = """
from mlx_qwen_embeddings.checkpoint.hub import open_folder
from mlx_qwen_embeddings.registry import resolve

print(open_folder(resolve("small")).path)
"""
CHUNK = 10 * 2**20
"""What huggingface_hub writes at once, and hence where it goes on."""


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    old = NANO | {"config_sentence_transformers.json": b'{"prompts": {"query": "old: "}}'}
    commits = {MAIN: NANO | {"pytorch_model.bin": b"pickle", "modeling.py": b"code"}, OLD: old}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.time", types.SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("HF_TOKEN", "hf_none")  # else the home folder is looked into for one
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub(NAME, commits, {"main": MAIN, "stable": MAIN, "v1": OLD}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def small(cache: Path, **options: object) -> Path:
    return open_folder(resolve("small"), cache_dir=cache, **options).path  # type: ignore[arg-type]


def repository(cache: Path) -> Path:
    return cache / f"models--{NAME.replace('/', '--')}"


def blob(cache: Path, path: str = WEIGHTS) -> Path:
    return repository(cache) / "blobs" / etag(path, NANO[path])


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    """Give the variables of a process that has its Hugging Face folder in ``home``."""
    fixed = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_HUB_", "MLX_QWEN_"))}
    return kept | fixed


def spoil(path: Path) -> None:
    """Flip a bit in the middle; size and time of change stay."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_alias_downloads_once_and_gives_the_vectors_of_what_was_served(hub: FakeHub, tmp_path: Path) -> None:
    texts = ["the cat sat on the mat", "rates rise"]
    with EmbeddingEngine("nano") as nano:
        expected = nano.embed_documents(texts), nano.embed_query("where is the cat?")
    with get_engine("small", cache_dir=tmp_path) as engine:
        np.testing.assert_array_equal(engine.embed_documents(texts), expected[0])
        np.testing.assert_array_equal(engine.embed_query("where is the cat?"), expected[1])
    requests = len(hub.log)
    assert requests > 0
    with EmbeddingEngine("small", cache_dir=tmp_path) as engine:
        np.testing.assert_array_equal(engine.embed_documents(texts), expected[0])
    assert len(hub.log) == requests


def test_only_what_is_read_is_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    folder = small(tmp_path)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == READ
    assert all((folder / path).read_bytes() == NANO[path] for path in READ)
    requests = len(hub.log)
    assert small(tmp_path) == folder
    assert len(hub.log) == requests


def test_a_slash_at_the_end_of_the_endpoint_does_no_harm(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    assert small(tmp_path).name == MAIN
    assert not any("//" in request for request in hub.log)


def test_the_first_download_shows_its_progress_on_a_terminal(hub: FakeHub, tmp_path: Path) -> None:
    terminal, far_end = pty.openpty()
    termios.tcsetwinsize(far_end, (24, 120))
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, env=environment(hub, tmp_path), stdout=subprocess.PIPE, stderr=far_end) as process:
        os.close(far_end)
        shown = b"".join(read_all(terminal))
        assert process.stdout is not None
        found = process.stdout.read().decode().strip()
    assert process.returncode == 0, shown.decode()
    assert found == str(repository(tmp_path / "hub") / "snapshots" / MAIN)
    assert "100%" in shown.decode()
    assert re.search(r"1[56]\.\dM", shown.decode())  # the weights, and the tokenizer beside them


def read_all(terminal: int) -> Iterator[bytes]:
    """Read until the last process has closed the other end, which Linux reports as an error."""
    try:
        while chunk := os.read(terminal, 4096):
            yield chunk
    except OSError:
        pass
    finally:
        os.close(terminal)


def test_a_revision_is_a_branch_a_tag_or_a_commit_and_part_of_the_identity(hub: FakeHub, tmp_path: Path) -> None:
    spec = resolve("small")
    by_name = {name: open_folder(spec, revision=name, cache_dir=tmp_path) for name in ("stable", "v1", MAIN, OLD)}
    assert [files.revision for files in by_name.values()] == [MAIN, OLD, MAIN, OLD]
    assert by_name["stable"].prompts["query"] == ""
    assert by_name["v1"].prompts["query"] == "old: "
    identities = {name: fingerprint(files) for name, files in by_name.items()}
    assert identities["stable"] == identities[MAIN] != identities["v1"] == identities[OLD]
    # The weights of both are the same blob.
    assert sum(request.endswith(blob(tmp_path).name) for request in hub.log) == 1
    requests = len(hub.log)
    assert small(tmp_path, revision="v1").name == OLD
    assert len(hub.log) == requests


def test_an_unknown_revision_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no revision 'v9'"):
        small(tmp_path, revision="v9")


def test_offline_uses_the_cache_and_never_asks(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"not \(wholly\) in the cache .* offline mode is on.*'nano'") as caught:
        small(tmp_path, offline=True)
    assert str(repository(tmp_path)) in str(caught.value)
    assert hub.log == []
    folder = small(tmp_path)
    hub.log.clear()
    assert small(tmp_path, offline=True) == folder
    with pytest.raises(ModelLoadError, match="offline mode is on"):
        small(tmp_path, offline=True, revision="v1")
    assert hub.log == []


def test_offline_by_the_environment(hub: FakeHub, tmp_path: Path) -> None:
    offline = environment(hub, tmp_path) | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PROGRAM]
    without = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert without.returncode != 0
    assert "offline mode is on" in without.stderr
    folder = small(tmp_path / "hub")
    hub.log.clear()
    cached = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert (cached.stdout.strip(), hub.log) == (str(folder), []), cached.stderr


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (401, "RepoNotFound", "check the name, or log in with `hf auth login`"),
        (401, "", "check the name, or log in with `hf auth login`"),
        (403, "GatedRepo", "accept the model's terms on its page and log in"),
        (403, "", "accept the model's terms on its page and log in"),
        (404, "RepoNotFound", "there is no such model"),
        (404, "", "there is no such model"),
        (429, "", "wait a few minutes"),
        (503, "", "try again"),
    ],
)
def test_a_refusal_says_what_to_do(hub: FakeHub, tmp_path: Path, status: int, code: str, remedy: str) -> None:
    hub.refusal = (status, code)
    with pytest.raises(ModelLoadError) as caught:
        small(tmp_path)
    assert f"the Hub refused {NAME} (status {status})" in str(caught.value)
    assert remedy in str(caught.value)
    assert not repository(tmp_path).exists()


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("pytorch_model.bin", rf"{NAME} has its weights as a pickle only \(pytorch_model.bin\).*safe_serialization=True"),
        ("nano-Q8_0.gguf", f"{NAME} has its weights as GGUF only: .* {NAME}:Q8_0"),
        ("onnx/model.onnx", f"{NAME} has no .*safetensors, and no other weights that are read: check the name"),
    ],
)
def test_a_repository_without_weights_that_are_read_is_refused_before_the_download(
    hub: FakeHub, tmp_path: Path, weights: str, words: str
) -> None:
    hub.commits[MAIN] = {path: content for path, content in NANO.items() if path != WEIGHTS} | {weights: b"weights"}
    with pytest.raises(ModelLoadError, match=words):
        small(tmp_path)
    assert not any("/resolve/" in request for request in hub.log)


def test_an_unreachable_hub_says_where_was_looked_and_names_nano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # "discard", where nobody listens
    with pytest.raises(ModelLoadError, match=r"could not be downloaded: .*refused.*'nano'") as caught:
        small(tmp_path)
    assert str(repository(tmp_path)) in str(caught.value)


def test_a_name_that_the_hub_cannot_have_is_refused_unasked(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="'some--body/model' is no Hub name"):
        open_folder(resolve("some--body/model"), cache_dir=tmp_path)
    assert hub.log == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_download_goes_on_after_a_broken_connection(hub: FakeHub, tmp_path: Path, *, reset: bool) -> None:
    hub.cuts[WEIGHTS] = [Cut(after=CHUNK + 2**20, reset=reset)]
    assert (small(tmp_path) / WEIGHTS).read_bytes() == NANO[WEIGHTS]
    assert hub.cuts[WEIGHTS] == []
    assert reset or hub.ranges[0].startswith("bytes=1")  # older releases keep more than whole chunks


@pytest.mark.parametrize("reset", [False, True])
def test_a_download_that_stays_broken_fails_and_leaves_nothing_half(hub: FakeHub, tmp_path: Path, *, reset: bool) -> None:
    hub.cuts[WEIGHTS] = [Cut(after=0, reset=reset)] * 6 * ATTEMPTS
    with pytest.raises(ModelLoadError, match="could not be downloaded"):
        small(tmp_path)
    assert not blob(tmp_path).exists()
    assert not (repository(tmp_path) / "snapshots" / MAIN / WEIGHTS).exists()
    with pytest.raises(ModelLoadError, match="offline mode is on"):
        small(tmp_path, offline=True)
    hub.cuts.clear()
    assert (small(tmp_path) / WEIGHTS).read_bytes() == NANO[WEIGHTS]


def test_a_full_disk_is_not_tried_again(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    with pytest.raises(ModelLoadError, match="No space left on device"):
        small(tmp_path)
    assert sum(request.startswith("HEAD") and request.endswith(WEIGHTS) for request in hub.log) == 1


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


def test_a_file_is_hashed_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    folder = small(tmp_path)
    spoil(blob(tmp_path))
    assert small(tmp_path) == folder  # same size, same time of change: taken for the file that was checked
    os.utime(blob(tmp_path))
    with pytest.raises(ModelLoadError, match="not what the Hub announced"):
        small(tmp_path)


@pytest.mark.parametrize("record", [None, "", "[]", '{"files": []}', '{"files": {}, "whole": {}}'])
def test_without_a_usable_record_files_are_hashed_anew(tmp_path: Path, record: str | None) -> None:
    small(tmp_path)
    path = repository(tmp_path) / RECORD
    path.unlink() if record is None else path.write_text(record)
    spoil(blob(tmp_path))
    with pytest.raises(ModelLoadError, match="not what the Hub announced"):
        small(tmp_path, offline=True)


def test_sound_files_are_remembered_beside_a_corrupted_one(hub: FakeHub, tmp_path: Path) -> None:
    hub.bodies[WEIGHTS] = bytes(len(NANO[WEIGHTS]))
    with pytest.raises(ModelLoadError, match=f"^{WEIGHTS} in"):
        small(tmp_path)
    record = json.loads((repository(tmp_path) / RECORD).read_text())
    assert list(record["files"]) == [blob(tmp_path, "tokenizer.json").name]


@pytest.mark.parametrize("place", ["cache", "elsewhere"])
def test_a_blob_may_be_a_link_and_only_the_cache_is_cleaned(tmp_path: Path, place: str) -> None:
    cache = tmp_path / "cache"
    folder = small(cache)
    # As in the store that models share since huggingface_hub 2: named by another hash of 64 digits.
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
    record.mkdir()  # root may write to a read-only folder, but can replace no folder by a file
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
    assert list(repository(tmp_path).glob(f"{RECORD}*")) == [record]


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


def begin(hub: FakeHub, cache: Path) -> None:
    """Put into the cache what a program wants that knows nothing of pooling."""
    for path in ("config.json", "tokenizer.json", WEIGHTS):
        huggingface_hub.hf_hub_download(NAME, path, cache_dir=cache, endpoint=hub.url)


def test_a_snapshot_that_another_program_began_is_completed(hub: FakeHub, tmp_path: Path) -> None:
    begin(hub, tmp_path)
    folder = small(tmp_path)
    assert all((folder / path).is_file() for path in READ)
    assert sum(request.endswith(blob(tmp_path).name) for request in hub.log) == 1


def test_a_begun_snapshot_is_used_with_a_warning_when_it_cannot_be_completed(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(hub, tmp_path)
    hub.refusal = (503, "")
    folder = small(tmp_path)
    assert not (folder / "modules.json").exists()
    assert "could not be completed: it is used as it is" in caplog.text
    assert "status 503" in caplog.text
    hub.refusal = None
    assert (small(tmp_path) / "modules.json").is_file()


def test_two_processes_download_at_once_and_each_file_once(hub: FakeHub, tmp_path: Path) -> None:
    # The first to begin on the weights is held until the other one is about to.
    hub.gates[WEIGHTS] = lambda: hub.wait_for(f"HEAD /{NAME}/resolve/{MAIN}/{WEIGHTS}", times=2)
    command, variables = [sys.executable, "-c", PROGRAM], environment(hub, tmp_path)
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, env=variables, text=True, stdout=pipe, stderr=pipe) for _ in range(2)]
    results = [process.communicate(timeout=100) for process in processes]
    folder = repository(tmp_path / "hub") / "snapshots" / MAIN
    assert [out.strip() for out, _ in results] == [str(folder)] * 2, results
    assert all((folder / path).read_bytes() == NANO[path] for path in READ)
    sent = collections.Counter(request for request in hub.log if request.startswith("GET") and "/api/" not in request)
    assert len(sent) == len(READ)
    assert set(sent.values()) == {1}
