"""Every form in which Qwen3 checkpoints are published loads, with the same vectors as the plain form."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.checkpoints import WITH_TOKENIZER, Shape, Weights, random_weights, save, write_checkpoint
from tests.support.forward import pooled_vectors

SHAPE = Shape()


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(SHAPE)


@pytest.fixture(scope="module")
def plain(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    return pooled_vectors(write_checkpoint(tmp_path_factory.mktemp("plain"), weights, SHAPE.config()))


Writer = Callable[[Path, Weights], Path]


def with_known_extras(folder: Path, weights: Weights) -> Path:
    head = {"lm_head.weight": weights["embed_tokens.weight"]}
    buffer = {"layers.0.self_attn.rotary_emb.inv_freq": np.ones(10, dtype=np.float32)}
    return write_checkpoint(folder, weights | head | buffer, SHAPE.config(), prefix="model.")


def nested_rope(folder: Path, weights: Weights) -> Path:
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    return write_checkpoint(folder, weights, SHAPE.config(rope_theta=None, rope_parameters=rope))


def nested_rope_and_another(folder: Path, weights: Weights) -> Path:
    # transformers takes the nested value.
    return write_checkpoint(folder, weights, SHAPE.config(rope_theta=500.0, rope_parameters={"rope_theta": 10_000.0}))


def null_scaling(folder: Path, weights: Weights) -> Path:
    write_checkpoint(folder, weights, SHAPE.config())
    (folder / "config.json").write_text(json.dumps(SHAPE.config() | {"rope_scaling": None, "quantization": None}))
    return folder


def other_shard_names(folder: Path, weights: Weights) -> Path:
    # A file that the index does not name is not part of the model.
    write_checkpoint(folder, weights, SHAPE.config(), shards=2)
    save(folder / "optimizer.safetensors", {"step": np.zeros(1, dtype=np.float32)})
    return folder


def no_index(folder: Path, weights: Weights) -> Path:
    write_checkpoint(folder, weights, SHAPE.config(), shards=3)
    (folder / "model.safetensors.index.json").unlink()
    return folder


def linked_as_in_the_hub_cache(folder: Path, weights: Weights) -> Path:
    source = write_checkpoint(folder / "blobs", weights, SHAPE.config(), shards=2)
    snapshot = folder / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for file in source.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    return snapshot


FORMS: dict[str, Writer] = {
    "prefix": lambda folder, weights: write_checkpoint(folder, weights, SHAPE.config(), prefix="model."),
    "sharded": lambda folder, weights: write_checkpoint(folder, weights, SHAPE.config(), shards=3),
    "sharded, prefix": lambda folder, weights: write_checkpoint(folder, weights, SHAPE.config(), shards=2, prefix="model."),
    "shards and an unrelated file": other_shard_names,
    "shards without an index": no_index,
    "links": linked_as_in_the_hub_cache,
    "head and inv_freq": with_known_extras,
    "nested rope_parameters": nested_rope,
    "nested rope_parameters and another rope_theta": nested_rope_and_another,
    "null rope_scaling": null_scaling,
}


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS.keys())
def test_every_form_equals_the_plain_one(
    write: Writer, weights: Weights, plain: NDArray[np.float32], tmp_path: Path
) -> None:
    np.testing.assert_array_equal(pooled_vectors(write(tmp_path, weights)), plain)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bfloat16", "float16"])
def test_half_precision_weights_are_computed_in_float32(dtype: mx.Dtype, weights: Weights, tmp_path: Path) -> None:
    halves = {name: mx.array(value).astype(dtype) for name, value in weights.items()}
    wholes = {name: value.astype(mx.float32) for name, value in halves.items()}
    half = pooled_vectors(write_checkpoint(tmp_path / "half", halves, SHAPE.config(torch_dtype="bfloat16")))
    np.testing.assert_array_equal(half, pooled_vectors(write_checkpoint(tmp_path / "whole", wholes, SHAPE.config())))


def test_a_folder_opens_through_the_engine_with_the_familys_defaults(tmp_path: Path) -> None:
    config = WITH_TOKENIZER.config(max_position_embeddings=40_960)
    write_checkpoint(tmp_path, random_weights(WITH_TOKENIZER), config, prefix="model.", shards=2)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    with EmbeddingEngine(str(tmp_path)) as engine:
        assert (engine.dimensions, engine.max_length, engine.limit) == (48, 8192, 40_960)
        task = "Given a web search query, retrieve relevant passages that answer the query"
        query = engine.embed_query("the tide")
        asked = engine.embed_documents([f"Instruct: {task}\nQuery:the tide", "the tide"])
    np.testing.assert_allclose(query, asked[0], atol=1e-6)
    assert np.abs(query - asked[1]).max() > 0.01


def test_a_copied_folder_has_the_same_fingerprint_and_a_changed_one_does_not(tmp_path: Path) -> None:
    shutil.copytree(NANO_FOLDER, tmp_path / "copy")
    shutil.copytree(NANO_FOLDER, tmp_path / "other")
    prompts = {"prompts": {"query": "query: ", "document": ""}}
    (tmp_path / "other" / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prints = []
    for model in ("nano", str(tmp_path / "copy"), str(tmp_path / "other")):
        with EmbeddingEngine(model) as engine:
            prints.append(engine.fingerprint)
    assert prints[0] == prints[1] != prints[2]
