"""Symbolic links: those in the Hub's cache are followed; those that lead out of a model's folder are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.compute.weights import INDEX
from mlx_qwen_embeddings.errors import ModelLoadError
from tests.support.checkpoints import WITH_TOKENIZER, random_weights, write_checkpoint

FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", random_weights(WITH_TOKENIZER), WITH_TOKENIZER.config(), shards=2)


def embed(folder: Path) -> np.ndarray:
    with EmbeddingEngine(str(folder)) as engine:
        return engine.embed_query("the tide")


def link_out(folder: Path, name: str) -> None:
    """Move a file out of the folder, and leave a link that would load if links were not checked."""
    path, outside = folder / name, folder.parent / f"outside-{Path(name).name}"
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", INDEX, FIRST])
def test_a_link_that_leads_out_of_the_folder_is_refused(name: str, folder: Path) -> None:
    link_out(folder, name)
    with pytest.raises(ModelLoadError, match=f"{name} leads outside the model's folder, to .*outside-{name}: refused"):
        embed(folder)


def relative(folder: Path) -> None:
    (folder / FIRST).rename(folder.parent / FIRST)
    (folder / FIRST).symlink_to(Path("..") / FIRST)


def by_way_of_another_link(folder: Path) -> None:
    (folder / FIRST).rename(folder.parent / FIRST)
    (folder / "hop.safetensors").symlink_to(folder.parent / FIRST)
    (folder / FIRST).symlink_to("hop.safetensors")


def without_an_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    link_out(folder, FIRST)


def a_folder_that_is_a_link(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / FIRST).rename(outside / FIRST)
    (folder / "sub").symlink_to(outside)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {key: f"sub/{FIRST}" if file == FIRST else file for key, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))


def pooling_above_the_folder(folder: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "../1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder.parent / "1_Pooling").mkdir()
    (folder.parent / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')


def a_blob_in_a_folder_that_is_not_a_snapshot(folder: Path) -> None:
    (folder.parent.parent / "blobs").mkdir()
    (folder / FIRST).rename(folder.parent.parent / "blobs" / FIRST)
    (folder / FIRST).symlink_to(folder.parent.parent / "blobs" / FIRST)


WAYS = [relative, by_way_of_another_link, without_an_index, a_folder_that_is_a_link, pooling_above_the_folder]
WAYS.append(a_blob_in_a_folder_that_is_not_a_snapshot)


@pytest.mark.parametrize("spoil", WAYS, ids=[spoil.__name__ for spoil in WAYS])
def test_every_way_out_of_the_folder_is_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a" / "model", random_weights(WITH_TOKENIZER), WITH_TOKENIZER.config(), shards=2)
    spoil(folder)
    with pytest.raises(ModelLoadError, match="leads outside the model's folder"):
        embed(folder)


def test_links_within_the_folder_and_to_it_are_followed(folder: Path) -> None:
    wanted = embed(folder)
    (folder / FIRST).rename(folder / "content")
    (folder / FIRST).symlink_to("content")
    link = folder.parent / "link"
    link.symlink_to(folder)
    np.testing.assert_allclose(embed(link), wanted, atol=1e-6)


def as_in_the_cache(folder: Path) -> Path:
    repository = folder.parent / "models--owner--name"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    shutil.move(folder, repository / "blobs")
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_a_snapshot_of_the_hubs_cache_may_link_only_to_its_own_blobs(folder: Path) -> None:
    wanted = embed(folder)
    snapshot = as_in_the_cache(folder)
    np.testing.assert_allclose(embed(snapshot), wanted, atol=1e-6)
    elsewhere = snapshot.parents[2] / "models--owner--other" / "blobs"
    elsewhere.mkdir(parents=True)
    (snapshot / FIRST).resolve().rename(elsewhere / FIRST)
    (snapshot / FIRST).unlink()
    (snapshot / FIRST).symlink_to(Path("../../../models--owner--other/blobs") / FIRST)
    with pytest.raises(ModelLoadError, match="leads outside the model's folder"):
        embed(snapshot)


def test_a_blob_may_be_a_link_into_a_shared_store(folder: Path) -> None:
    wanted = embed(folder)
    snapshot = as_in_the_cache(folder)
    blob = (snapshot / FIRST).resolve()
    blob.rename(folder.parent / "store")
    blob.symlink_to(folder.parent / "store")
    np.testing.assert_allclose(embed(snapshot), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "index", [[], {"weight_map": []}, {"weight_map": {"norm.weight": 5}}, {"weight_map": None}, 7, "x"]
)
def test_a_malformed_index_is_refused(index: object, folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match="does not say which file holds which weight"):
        embed(folder)
