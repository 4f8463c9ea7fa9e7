"""``mlx-qwen models``: what is listed, told, downloaded and removed, over a cache made by hand."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from mlx_qwen_embeddings.checkpoint.downloads import memory_estimate
from mlx_qwen_embeddings.cli.app import app
from mlx_qwen_embeddings.registry import NANO_FOLDER, list_models, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"
SIZE = f"{sum(path.stat().st_size for path in NANO_FOLDER.rglob('*') if path.is_file()) / 1e6:.1f} MB"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a cache in which ``small`` lies: nano's files under its name."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the variable is read when the library is imported
    folder = tmp_path / f"models--{REPOSITORY.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs").mkdir()
    shutil.copytree(NANO_FOLDER, folder / "snapshots" / COMMIT)
    return tmp_path


def run(*arguments: object, answer: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["models", *map(str, arguments)], prog_name="mlx-qwen", input=answer)
    return result.exit_code, result.stdout, result.stderr


def test_the_list(cache: Path) -> None:
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
    assert lines[2].split()[:7] == ["small-mxfp8", "mxfp8", "1,024", "32,768", "613.9", "MB", "2.4"]  # not here
    assert {line.split()[0] for line in lines[1:]} == {spec.name for spec in list_models()}


def test_the_list_as_json_without_a_cache(tmp_path: Path) -> None:
    status, out, _ = run("list", "--model-dir", tmp_path / "none", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (status, rows["small"]["on_disk"], rows["small"]["folder"]) == (0, None, None)
    assert rows["nano"]["folder"] == str(NANO_FOLDER)


def test_what_is_known_before_the_download(tmp_path: Path) -> None:
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


def test_what_the_files_tell(cache: Path) -> None:
    status, out, _ = run("info", "0.6b", "--model-dir", cache, "--json")
    facts = json.loads(out)
    assert (status, facts["dimensions"], facts["pooling"], facts["type"]) == (0, 384, "last", "qwen3")
    assert facts["folder"] == str(cache / f"models--{REPOSITORY.replace('/', '--')}")
    assert run("info", "nano")[1].splitlines()[-1] == "chat template       no"


def test_download_says_where_it_lies(cache: Path) -> None:
    folder = cache / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / COMMIT
    assert run("download", "small", "--model-dir", cache)[:2] == (0, f"{folder}\n")
    status, out, err = run("download", "medium", "--model-dir", cache)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "offline mode is on" in err


def test_remove_asks_and_deletes(cache: Path) -> None:
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


def test_remove_leaves_alone_what_is_no_download(tmp_path: Path) -> None:
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "mine")
    for name in ("nano", str(folder)):
        status, _, err = run("remove", name, "--yes")
        assert (status, err.count("\n")) == (1, 1)
        assert "not a download: delete it yourself" in err
    assert (folder / "model.safetensors").exists()


def test_memory_is_about_what_the_weights_take() -> None:
    nano = resolve("nano")
    # As measured: 73.7 MB in float32, 15.3 MB packed.
    assert memory_estimate(nano, "cpu") == pytest.approx(73.7e6, rel=0.05)
    assert memory_estimate(nano, "gpu") == pytest.approx(15.3e6, rel=0.05)
    assert memory_estimate(resolve("all-minilm"), "gpu") == pytest.approx(45.5e6, rel=0.1)
    assert memory_estimate(resolve("owner/unknown"), "cpu") is None
