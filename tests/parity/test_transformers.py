"""Hidden states and pooled vectors against transformers, in float32 on the CPU, on tiny checkpoints of odd shapes."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen3Model

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.encoder import Encoder
from mlx_qwen_embeddings.compute.loading import load_model
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from tests.support.checkpoints import Shape, random_weights, write_checkpoint
from tests.support.references import pooled

SHAPES = {
    "heads wider than hidden": Shape(),
    "heads narrower than hidden": Shape(head_dim=8),
    "one query head a key head": Shape(num_key_value_heads=4, head_dim=8),
    "four query heads a key head": Shape(num_attention_heads=8, num_key_value_heads=2, head_dim=12),
    "one layer": Shape(num_hidden_layers=1),
    "with biases": Shape(attention_bias=True),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "official": {},
    "prefixed": {"prefix": "model."},
    "sharded": {"shards": 3},
    "prefixed shards": {"prefix": "model.", "shards": 4},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "rope_scaling absent": {},
    "rope_theta of the real models": {"rope_theta": 1_000_000},
    "nested rope_parameters": {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
}
ROWS = [np.random.default_rng(length).integers(0, 1024, length).astype(np.int32) for length in (1, 2, 7, 40, 131)]
BACKEND = choose_backend("cpu")


def hidden_by_transformers(folder: Path) -> list[NDArray[Any]]:
    model = Qwen3Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        return [model(torch.tensor(row[None].astype(np.int64))).last_hidden_state[0].numpy() for row in ROWS]


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    scaled: NDArray[Any] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def assert_same_hidden_states(folder: Path, expected: list[NDArray[Any]]) -> None:
    model = load_model(ModelFiles(folder), BACKEND)
    for row, states in zip(ROWS, expected, strict=True):
        found = np.array(model(mx.array(row)[None], mx.array([len(row)]))[0])
        assert np.abs(unit(found) - unit(states)).max() < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SHAPES)
def test_odd_shapes_in_every_layout(tmp_path: Path, name: str, layout: str) -> None:
    shape = SHAPES[name]
    weights = random_weights(shape, seed=3)
    theirs = hidden_by_transformers(write_checkpoint(tmp_path / "theirs", weights, shape.config()))
    ours = write_checkpoint(tmp_path / "ours", weights, shape.config(), **LAYOUTS[layout])
    assert_same_hidden_states(ours, theirs)


@pytest.mark.parametrize("null", [False, True], ids=["absent", "null"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_way_of_stating_the_rotation(tmp_path: Path, name: str, null: bool) -> None:  # noqa: FBT001 - a parameter
    shape = Shape()
    config = shape.config(**CONFIGS[name]) | ({"rope_scaling": None} if null else {})
    folder = write_checkpoint(tmp_path, random_weights(shape, seed=4), config)
    assert_same_hidden_states(folder, hidden_by_transformers(folder))


def test_a_wrong_rotation_would_be_noticed(tmp_path: Path) -> None:
    shape, weights = Shape(), random_weights(Shape(), seed=4)
    theirs = hidden_by_transformers(write_checkpoint(tmp_path / "a", weights, shape.config(rope_theta=20_000.0)))
    with pytest.raises(AssertionError):
        assert_same_hidden_states(write_checkpoint(tmp_path / "b", weights, shape.config()), theirs)


@pytest.mark.parametrize("pooling", ["last", "mean", "first", "max"])
@pytest.mark.parametrize("name", SHAPES)
def test_pooled_vectors_of_one_padded_batch(tmp_path: Path, name: str, pooling: Any) -> None:
    shape = SHAPES[name]
    folder = write_checkpoint(tmp_path, random_weights(shape, seed=3), shape.config())
    expected = np.stack([pooled(states, pooling) for states in hidden_by_transformers(folder)])
    encoder = Encoder(ModelFiles(folder), BACKEND)
    assert np.abs(unit(encoder.encode(ROWS, pooling, None)) - expected).max() < 1e-5
    shared = np.concatenate([ROWS[3][:20], ROWS[4][:5]])  # starts like ROWS[3], so their common keys are computed once
    both = [ROWS[3], shared, ROWS[4]]
    alone = np.concatenate([encoder.encode([row], pooling, None) for row in both])
    assert np.abs(unit(encoder.encode(both, pooling, ROWS[3][:20])) - unit(alone)).max() < 1e-5
