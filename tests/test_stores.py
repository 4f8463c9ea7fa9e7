"""What is written beside stored vectors, and which embeddings are refused because of it."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen_embeddings.errors import IndexMismatchError
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.stores import KEY, RECORD, check, check_folder, stamp
from tests.support.power_cut import watched_renames


def test_both_frameworks_write_and_read_the_same() -> None:
    chain, index = MLXQwenEmbeddings("nano", dimensions=64), MLXQwenEmbedding("nano", dimensions=64)
    assert stamp(chain) == stamp(index)
    assert [type(value) for value in stamp(chain).values()] == [str]
    check(index, {"hnsw:space": "cosine", **stamp(chain)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dimensions": 64}, "made with dimensions 384, not 64"),
        ({"normalize": False}, "made with normalize True, not False"),
        ({"precision": "int8"}, "made with precision 'float32', not 'int8'"),
        ({"pooling": "mean"}, "made with pooling 'native', not 'mean'"),
        ({"document_instruction": "Find it"}, "made with instruction None, not 'Find it'"),
        ({"chat_template": "{{ messages[0].content }}"}, "made with chat_template None, not"),
        ({"dimensions": 64, "pooling": "mean"}, "dimensions 384, not 64; pooling 'native', not 'mean'"),
    ],
)
def test_what_shapes_a_documents_vector_may_not_change(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(IndexMismatchError, match=message):
        check(MLXQwenEmbeddings("nano", **fields), stamp(MLXQwenEmbeddings("nano")))


@pytest.mark.parametrize(
    "fields", [{}, {"query_instruction": "Find it"}, {"max_length": 99}, {"truncate": "error"}, {"dimensions": 384}]
)
def test_what_does_not_shape_it_may_change(fields: dict[str, Any]) -> None:
    check(MLXQwenEmbeddings("nano", **fields), stamp(MLXQwenEmbeddings("nano")))


def test_an_option_that_a_record_does_not_name_has_its_default() -> None:
    embeddings = MLXQwenEmbeddings("nano", pooling="mean")
    said = json.loads(stamp(embeddings)[KEY])
    check(embeddings, {KEY: json.dumps(said | {"normalize": True})})
    with pytest.raises(IndexMismatchError, match="made with a_later_option 3, not None"):
        check(embeddings, {KEY: json.dumps(said | {"a_later_option": 3})})


def test_a_model_whose_files_changed_under_its_name(tmp_path: Path) -> None:
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "model")
    embeddings = MLXQwenEmbeddings(str(folder))
    said = json.loads(stamp(embeddings)[KEY])
    with pytest.raises(
        IndexMismatchError,
        match=rf"other files of the model '{folder}': .*keep the modification times .*rsync -a or cp -p",
    ):
        check(embeddings, {KEY: json.dumps(said | {"content": "0" * 16})})
    check(MLXQwenEmbeddings("nano"), {KEY: json.dumps(said | {"content": MLXQwenEmbeddings("nano").engine.fingerprint})})


def test_another_commit_is_named_with_how_to_get_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "b" * 40, "a" * 40
    snapshots = tmp_path / "models--mlx-community--Qwen3-Embedding-0.6B-4bit-DWQ"
    for commit in (old, new):
        shutil.copytree(NANO_FOLDER, snapshots / "snapshots" / commit)
    (snapshots / "refs").mkdir()
    (snapshots / "refs" / "main").write_text(new)
    monkeypatch.setenv("MLX_QWEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MLX_QWEN_OFFLINE", "1")
    made = stamp(MLXQwenEmbeddings("small", revision=old))
    assert json.loads(made[KEY])["revision"] == old
    message = rf"the model 'small' at revision '{old}', not '{new}': embed with the same.* Pass revision='{old}'"
    with pytest.raises(IndexMismatchError, match=message):
        check(MLXQwenEmbeddings("small"), made)
    check(MLXQwenEmbeddings("small", revision=old), made)


def test_a_record_without_a_revision_is_read_too() -> None:
    said = json.loads(stamp(MLXQwenEmbeddings("nano"))[KEY])
    del said["revision"]
    check(MLXQwenEmbeddings("nano"), {KEY: json.dumps(said)})


@pytest.mark.parametrize("metadata", [None, {}, {"hnsw:space": "cosine"}])
def test_a_store_without_a_record_is_refused(metadata: dict[str, str] | None) -> None:
    with pytest.raises(IndexMismatchError, match=r"notes does not say which model made its vectors: rebuild it with stamp"):
        check(MLXQwenEmbeddings("nano"), metadata, name="notes")


def test_a_folder_is_written_once_and_then_checked(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "store"
    check_folder(MLXQwenEmbeddings("nano"), folder)
    written = (folder / RECORD).read_text()
    assert [path.name for path in folder.iterdir()] == [RECORD]
    check_folder(MLXQwenEmbedding("nano"), str(folder))
    with pytest.raises(IndexMismatchError, match=rf"{folder} holds vectors made with dimensions 384, not 64"):
        check_folder(MLXQwenEmbeddings("nano", dimensions=64), folder)
    assert (folder / RECORD).read_text() == written


def test_the_record_of_a_folder_outlives_a_power_cut(tmp_path: Path) -> None:
    with watched_renames() as renames:
        check_folder(MLXQwenEmbeddings("nano"), tmp_path)
    assert [(rename.target.name, rename.durable) for rename in renames] == [(RECORD, True)]


def test_a_folder_that_several_open_at_once(tmp_path: Path) -> None:
    embeddings = MLXQwenEmbeddings("nano")
    embeddings.engine.warmup()
    for number in range(5):
        start = threading.Barrier(4)

        def opened(folder: Path, start: threading.Barrier = start) -> None:
            start.wait(20)
            check_folder(embeddings, folder)

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(opened, tmp_path / str(number)) for _ in range(4)]:
                done.result()
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == [RECORD]


def test_a_partial_record_after_a_kill_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / f"{RECORD}.0123").write_text("half")
    check_folder(MLXQwenEmbeddings("nano"), tmp_path)
    assert (tmp_path / RECORD).is_file()


def test_a_folder_with_content_but_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"vectors")
    with pytest.raises(IndexMismatchError, match=rf"build the store again in an empty folder, or write .* into .*{RECORD}"):
        check_folder(MLXQwenEmbeddings("nano"), tmp_path)
    assert not (tmp_path / RECORD).exists()
