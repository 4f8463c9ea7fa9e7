"""The fingerprint changes with everything that shapes a vector, and with nothing else."""

import os
import shutil
from pathlib import Path

import pytest

from mlx_qwen_embeddings.checkpoint import fingerprint as module
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.fingerprint import fingerprint, nano_fingerprint
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.checkpoints import FIRST_NANO


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the files of a model, all small."""
    target = tmp_path / "model"
    shutil.copytree(NANO_FOLDER, target, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer.json"))
    (target / "tokenizer.json").write_text("{}")
    (target / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (target / "chat_template.jinja").write_text("{{ x }}")
    return target


def test_a_copy_has_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert fingerprint(ModelFiles(copy)) == fingerprint(ModelFiles(folder))


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors", "chat_template.jinja", "modules.json"],
)
def test_one_byte_of_any_file_changes_it(name: str, folder: Path) -> None:
    before = fingerprint(ModelFiles(folder))
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert fingerprint(ModelFiles(folder)) != before


def test_a_renamed_an_added_and_a_removed_file_change_it(folder: Path) -> None:
    seen = {fingerprint(ModelFiles(folder))}
    (folder / "sentence_bert_config.json").write_text("{}")
    seen.add(fingerprint(ModelFiles(folder)))
    (folder / "sentence_bert_config.json").rename(folder / "other.json")
    seen.add(fingerprint(ModelFiles(folder)))
    (folder / "modules.json").unlink()
    seen.add(fingerprint(ModelFiles(folder)))
    assert len(seen) == 4


def test_files_that_shape_no_vector_do_not_change_it(folder: Path) -> None:
    before = fingerprint(ModelFiles(folder))
    (folder / "README.md").write_text("changed")
    (folder / "notes.txt").write_text("new")
    os.utime(folder / "config.json", (1, 1))
    assert fingerprint(ModelFiles(folder)) == before


def test_a_large_file_counts_with_size_time_and_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(module, "_SAMPLE_BYTES", 16)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    seen = [fingerprint(ModelFiles(folder))]
    stat = path.stat()
    content[-1] ^= 1  # the last sample reaches to the end
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    seen.append(fingerprint(ModelFiles(folder)))
    os.utime(path, ns=(1, 1))
    seen.append(fingerprint(ModelFiles(folder)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.write_bytes(content + b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    seen.append(fingerprint(ModelFiles(folder)))
    assert len(set(seen)) == 4


def test_a_snapshot_counts_with_repository_and_commit(tmp_path: Path) -> None:
    def snapshot(repository: str, commit: str) -> str:
        folder = tmp_path / f"models--{repository}" / "snapshots" / commit
        folder.mkdir(parents=True, exist_ok=True)
        return fingerprint(ModelFiles(folder, revision=commit))

    assert snapshot("a--b", "1") == snapshot("a--b", "1")
    assert len({snapshot("a--b", "1"), snapshot("a--b", "2"), snapshot("a--c", "1")}) == 3


def test_nano_has_another_fingerprint_than_its_first_version() -> None:
    assert nano_fingerprint() == fingerprint(ModelFiles(NANO_FOLDER)) != FIRST_NANO
