"""Hidden states and pooled vectors beside transformers, float32 on the CPU, on tiny random checkpoints of odd shapes."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import Qwen3Model

from mlx_qwen_embeddings.backend import choose_backend
from mlx_qwen_embeddings.encoder import Encoder
from mlx_qwen_embeddings.loading import load_model
from mlx_qwen_embeddings.model_files import ModelFiles
from tests.checkpoints import Shape, random_weights, write_checkpoint
from tests.references import pooled

SHAPES = {
    "heads wider than hidden": Shape(),
    "one key head a query head": Shape(num_key_value_heads=4, head_dim=8),
    "four query heads a key head": Shape(num_attention_heads=8, num_key_value_heads=2, head_dim=12),
    "with biases": Shape(attention_bias=True),
}
LENGTHS = (1, 2, 7, 40, 131)


def reference(folder: Path) -> Qwen3Model:
    return Qwen3Model.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("layout", [{"prefix": ""}, {"prefix": "model."}, {"prefix": "", "shards": 3}], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_hidden_states_and_vectors_equal_those_of_transformers(tmp_path: Path, name: str, layout: dict) -> None:
    shape = SHAPES[name]
    files = ModelFiles(write_checkpoint(tmp_path / "ours", shape, random_weights(shape, seed=3), **layout))
    plain = write_checkpoint(tmp_path / "theirs", shape, random_weights(shape, seed=3))
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, shape.vocab_size, length).astype(np.int32) for length in LENGTHS]
    with torch.inference_mode():
        model = reference(plain)
        hidden = [model(torch.tensor(row[None].astype(np.int64))).last_hidden_state[0].numpy() for row in rows]
    backend = choose_backend("cpu")
    ours = load_model(files, backend)
    for row, expected in zip(rows, hidden, strict=True):
        found = np.array(ours(mx.array(row)[None], mx.array([len(row)]))[0])
        assert np.abs(unit(found) - unit(expected)).max() < 1e-5
    encoder = Encoder(files, backend)
    for pooling in ("last", "mean", "first", "max"):
        found = unit(encoder.encode(rows, pooling))  # one batch, padded on the right
        expected = unit(np.stack([pooled(states, pooling) for states in hidden]))
        assert np.abs(found - expected).max() < 1e-5
