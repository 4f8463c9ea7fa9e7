"""``mlx-qwen models`` with a Hub cache made by hand: list, describe, download and remove."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from mlx_qwen_embeddings.checkpoint.downloads import memory_estimate
from mlx_qwen_embeddings.registry import NANO_FOLDER, list_models, resolve
from tests.support.command_line import run as run_command

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"
SIZE = f"{sum(path.stat().st_size for path in NANO_FOLDER.rglob('*') if path.is_file()) / 1e6:.1f} MB"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache that holds ``small``, with nano's files."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # huggingface_hub reads the variable once, when it is imported
    folder = tmp_path / f"models--{REPOSITORY.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs").mkdir()
    shutil.copytree(NANO_FOLDER, folder / "snapshots" / COMMIT)
    return tmp_path


def run(*arguments: object, answer: str = "") -> tuple[int, str, str]:
    return run_command("models", *arguments, stdin=answer)


def test_list(cache: Path) -> None:
    status, out, err = run("list", "--model-dir", cache)
    lines = out.splitlines()
    assert (status, err, len(lines)) == (0, "", 1 + len(list_models()))
    assert lines[0].split() == [
        "name",
        "weights",
        "dimensions",
        "tokens",
        "download",
        "on",
        "disk",
        "memory,",
        "CPU",
        "GPU",
    ]
    known = ["4-bit", "DWQ", "1,024", "32,768", "335.2", "MB", *SIZE.split(), "2.4", "GB", "335.2", "MB"]
    assert lines[1].split() == ["small", *known]
    assert lines[2].split()[:7] == ["small-mxfp8", "mxfp8", "1,024", "32,768", "613.9", "MB", "2.4"]  # not downloaded
    assert {line.split()[0] for line in lines[1:]} == {spec.name for spec in list_models()}


def test_list_as_json_without_a_cache(tmp_path: Path) -> None:
    status, out, _ = run("list", "--model-dir", tmp_path / "none", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (status, rows["small"]["on_disk"], rows["small"]["folder"]) == (0, None, None)
    assert rows["nano"]["folder"] == str(NANO_FOLDER)


def test_info_before_the_download(tmp_path: Path) -> None:
    assert run("info", "small", "--model-dir", tmp_path)[:2] == (
        0,
        f"""name        small
aliases     0.6b
source      {REPOSITORY}
weights     4-bit DWQ
dimensions  1,024
max length  32,768
download    335.2 MB
on disk     none
folder      none
memory cpu  2.4 GB
memory gpu  335.2 MB
""",
    )


def test_info_after_the_download(cache: Path) -> None:
    status, out, _ = run("info", "0.6b", "--model-dir", cache, "--json")
    facts = json.loads(out)
    assert (status, facts["dimensions"], facts["pooling"], facts["type"]) == (0, 384, "last", "qwen3")
    assert facts["folder"] == str(cache / f"models--{REPOSITORY.replace('/', '--')}")
    assert run("info", "nano")[1].splitlines()[-1] == "chat template       no"


def test_download_prints_the_folder(cache: Path) -> None:
    folder = cache / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / COMMIT
    assert run("download", "small", "--model-dir", cache)[:2] == (0, f"{folder}\n")
    status, out, err = run("download", "medium", "--model-dir", cache)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "offline mode is on" in err


def test_remove_asks_and_then_deletes(cache: Path) -> None:
    folder = cache / f"models--{REPOSITORY.replace('/', '--')}"
    status, out, _ = run("remove", "small", "--model-dir", cache, answer="n\n")
    assert (status, out) == (1, f"Delete {REPOSITORY} ({SIZE}) in {folder}? [y/N]: n\n")
    assert folder.exists()
    assert run("remove", "small", "--model-dir", cache, "--yes") == (
        0,
        f"removed {REPOSITORY}: {SIZE} freed\n",
        "",
    )
    assert not folder.exists()
    missing = f"mlx-qwen: {REPOSITORY} is not in {cache}: there is nothing to remove\n"
    assert run("remove", "small", "--model-dir", cache, "--yes") == (1, "", missing)


def test_remove_does_not_delete_local_folders(tmp_path: Path) -> None:
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "mine")
    for name in ("nano", str(folder)):
        status, _, err = run("remove", name, "--yes")
        assert (status, err.count("\n")) == (1, 1)
        assert "not a download: delete it yourself" in err
    assert (folder / "model.safetensors").exists()


def test_the_memory_estimate_is_close_to_the_weights() -> None:
    nano = resolve("nano")
    # Measured: 73.7 MB in float32, 15.3 MB packed.
    assert memory_estimate(nano, "cpu") == pytest.approx(73.7e6, rel=0.05)
    assert memory_estimate(nano, "gpu") == pytest.approx(15.3e6, rel=0.05)
    assert memory_estimate(resolve("all-minilm"), "gpu") == pytest.approx(45.5e6, rel=0.1)
    assert memory_estimate(resolve("owner/unknown"), "cpu") is None
