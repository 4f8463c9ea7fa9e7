"""Downloads from the Hugging Face Hub, tested on a small Hub on loopback that serves nano under the name of "small"."""

import collections
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.fingerprint import fingerprint
from mlx_qwen_embeddings.checkpoint.hub import ATTEMPTS, open_folder
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.registry import resolve
from tests.support.fake_hub import Cut, FakeHub
from tests.support.nano_hub import MAIN, NAME, NANO, OLD, READ, WEIGHTS, blob, repository, small

pytestmark = pytest.mark.usefixtures("hub")


PROGRAM = """
from mlx_qwen_embeddings.checkpoint.hub import open_folder
from mlx_qwen_embeddings.registry import resolve

print(open_folder(resolve("small")).path)
"""


CHUNK = 10 * 2**20
"""What huggingface_hub writes at once, so it resumes from a multiple of it."""


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    """Return the environment of a process whose Hugging Face folder is ``home``."""
    fixed = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_HUB_", "MLX_QWEN_"))}
    return kept | fixed


def test_the_alias_downloads_once_and_gives_the_vectors_of_what_was_served(hub: FakeHub, tmp_path: Path) -> None:
    texts = ["the cat sat on the mat", "rates rise"]
    with EmbeddingEngine("nano") as nano:
        expected = nano.embed_documents(texts), nano.embed_query("where is the cat?")
    with EmbeddingEngine("small", cache_dir=tmp_path) as engine:
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


def test_the_endpoint_may_end_in_a_slash(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Yield output until the last process closes the other end, which Linux reports as an error."""
    try:
        while chunk := os.read(terminal, 4096):
            yield chunk
    except OSError:
        pass
    finally:
        os.close(terminal)


def test_a_revision_is_a_branch_a_tag_or_a_commit_and_part_of_the_fingerprint(hub: FakeHub, tmp_path: Path) -> None:
    spec = resolve("small")
    by_name = {name: open_folder(spec, revision=name, cache_dir=tmp_path) for name in ("stable", "v1", MAIN, OLD)}
    assert [files.revision for files in by_name.values()] == [MAIN, OLD, MAIN, OLD]
    assert by_name["stable"].prompts["query"] == ""
    assert by_name["v1"].prompts["query"] == "old: "
    prints = {name: fingerprint(files) for name, files in by_name.items()}
    assert prints["stable"] == prints[MAIN] != prints["v1"] == prints[OLD]
    # The weights of both are the same blob.
    assert sum(request.endswith(blob(tmp_path).name) for request in hub.log) == 1
    requests = len(hub.log)
    assert small(tmp_path, revision="v1").name == OLD
    assert len(hub.log) == requests


def test_an_unknown_revision_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no revision 'v9'"):
        small(tmp_path, revision="v9")


def test_offline_uses_the_cache_and_never_asks(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"not completely in the cache .* offline mode is on.*'nano'") as caught:
        small(tmp_path, offline=True)
    assert str(repository(tmp_path)) in str(caught.value)
    assert hub.log == []
    folder = small(tmp_path)
    hub.log.clear()
    assert small(tmp_path, offline=True) == folder
    with pytest.raises(ModelLoadError, match="offline mode is on"):
        small(tmp_path, offline=True, revision="v1")
    assert hub.log == []


def test_the_environment_can_turn_offline_mode_on(hub: FakeHub, tmp_path: Path) -> None:
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
def test_a_refusal_by_the_hub_says_what_to_do(hub: FakeHub, tmp_path: Path, status: int, code: str, remedy: str) -> None:
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


def test_when_the_hub_is_unreachable_the_error_names_the_cache_and_nano(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port "discard", on which nothing listens
    with pytest.raises(ModelLoadError, match=r"could not be downloaded: .*refused.*'nano'") as caught:
        small(tmp_path)
    assert str(repository(tmp_path)) in str(caught.value)


def test_a_name_that_the_hub_cannot_have_is_refused_without_asking(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="'some--body/model' is no Hub name"):
        open_folder(resolve("some--body/model"), cache_dir=tmp_path)
    assert hub.log == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_download_continues_after_a_broken_connection(hub: FakeHub, tmp_path: Path, *, reset: bool) -> None:
    hub.cuts[WEIGHTS] = [Cut(after=CHUNK + 2**20, reset=reset)]
    assert (small(tmp_path) / WEIGHTS).read_bytes() == NANO[WEIGHTS]
    assert hub.cuts[WEIGHTS] == []
    assert reset or hub.ranges[0].startswith("bytes=1")  # older versions keep partial chunks


@pytest.mark.parametrize("reset", [False, True])
def test_a_download_that_keeps_failing_leaves_no_partial_file(hub: FakeHub, tmp_path: Path, *, reset: bool) -> None:
    hub.cuts[WEIGHTS] = [Cut(after=0, reset=reset)] * 6 * ATTEMPTS
    with pytest.raises(ModelLoadError, match="could not be downloaded"):
        small(tmp_path)
    assert not blob(tmp_path).exists()
    assert not (repository(tmp_path) / "snapshots" / MAIN / WEIGHTS).exists()
    with pytest.raises(ModelLoadError, match="offline mode is on"):
        small(tmp_path, offline=True)
    hub.cuts.clear()
    assert (small(tmp_path) / WEIGHTS).read_bytes() == NANO[WEIGHTS]


def test_a_full_disk_is_not_retried(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    with pytest.raises(ModelLoadError, match="No space left on device"):
        small(tmp_path)
    assert sum(request.startswith("HEAD") and request.endswith(WEIGHTS) for request in hub.log) == 1


def test_two_processes_that_download_at_once_fetch_each_file_once(hub: FakeHub, tmp_path: Path) -> None:
    # The first process to request the weights is held up until the other one asks for them.
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
