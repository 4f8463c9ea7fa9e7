"""The forward pass against a float64 reference, and its fast routes against the plain ones."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings.models import attention
from mlx_qwen_embeddings.models.activations import exp_in_place, silu
from mlx_qwen_embeddings.models.layers import pool
from mlx_qwen_embeddings.options import Pooling
from tests.support.checkpoints import Shape, random_weights, write_checkpoint
from tests.support.forward import ROWS, hidden_states, pooled_vectors
from tests.support.references import pooled, qwen3

SHAPES = {
    "one key head per query head": Shape(num_key_value_heads=4),
    "two query heads per key head": Shape(),
    "four query heads per key head": Shape(num_key_value_heads=1),
    "biases": Shape(attention_bias=True),
    "one layer, wide head": Shape(num_hidden_layers=1, head_dim=64, num_attention_heads=2, num_key_value_heads=1),
    "large eps": Shape(rms_norm_eps=0.1),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_hidden_states_equal_the_reference(shape: Shape, tmp_path: Path) -> None:
    weights = random_weights(shape)
    states = hidden_states(write_checkpoint(tmp_path, weights, shape.config()))
    for row, state in zip(ROWS, states, strict=True):
        np.testing.assert_allclose(state, qwen3(weights, shape.config(), row), atol=2e-5)


@pytest.mark.parametrize("pooling", ["last", "first", "mean", "max"])
def test_pooling_takes_only_real_tokens(pooling: Pooling, tmp_path: Path) -> None:
    shape = Shape()
    weights = random_weights(shape)
    vectors = pooled_vectors(write_checkpoint(tmp_path, weights, shape.config()), pooling)
    wanted = [pooled(qwen3(weights, shape.config(), row), pooling) for row in ROWS]
    np.testing.assert_allclose(vectors, wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [("first", [[1, 2], [5, 6]]), ("last", [[3, 5], [-1, 0]]), ("mean", [[2, 3.5], [3, 4]]), ("max", [[3, 5], [5, 6]])],
)
def test_pooling_by_hand(pooling: Pooling, wanted: list[list[float]]) -> None:
    # Not normalised: unit vectors would not show what a mean was divided by.
    hidden = mx.array([[[1, 2], [3, 5], [9, 9]], [[5, 6], [5, 6], [-1, 0]]], dtype=mx.float32)
    np.testing.assert_allclose(np.array(pool(hidden, mx.array([2, 3]), pooling)), wanted, atol=1e-6)


def test_rope_base_is_read_from_the_configuration(tmp_path: Path) -> None:
    shape = Shape()
    config, weights = shape.config(rope_theta=1_000_000.0), random_weights(shape)
    state = hidden_states(write_checkpoint(tmp_path, weights, config), ROWS[2:3])[0]
    np.testing.assert_allclose(state, qwen3(weights, config, ROWS[2]), atol=2e-5)
    assert np.abs(state - qwen3(weights, shape.config(), ROWS[2])).max() > 0.01


def test_silu_by_hand_equals_the_sigmoid_form() -> None:
    x = mx.concatenate([mx.linspace(-30, 30, 6001), mx.array([-1e4, -200.0, -1e-30, 0.0, 200.0, 1e4])])
    difference = np.abs(np.array(silu(x) - x * mx.sigmoid(x)))
    assert difference.max() < 4e-6
    assert np.isfinite(np.array(silu(x))).all()


@pytest.mark.filterwarnings("error")
def test_exponentials_are_correct_and_computed_in_place() -> None:
    exponents = np.array([-1e30, -200.0, *np.linspace(-87, 88, 5002), 200.0, np.inf, -np.inf], dtype=np.float32)
    x = mx.array(exponents).reshape(3, -1)
    found = exp_in_place(x)
    assert np.shares_memory(np.array(found, copy=False), np.array(x, copy=False))
    with np.errstate(over="ignore"):
        wanted = np.exp(exponents.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(np.array(found).ravel(), wanted, rtol=5e-7)
    assert np.isnan(np.array(exp_in_place(mx.array([mx.nan])))).all()


@pytest.mark.parametrize("score_bytes", [1, 4 * 2 * 6 * 33 * 10, 4 * 2 * 6 * 33 * 32])
@pytest.mark.parametrize("kv_heads", [6, 2, 1])
def test_attention_in_blocks_equals_attention_at_once(
    score_bytes: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mx.random.seed(0)
    q = mx.random.normal((2, 6, 33, 16))
    k, v = mx.random.normal((2, kv_heads, 33, 16)), mx.random.normal((2, kv_heads, 33, 16))
    whole = np.array(attention.causal_attention(q, k, v, scale=0.25))
    monkeypatch.setattr(attention, "SCORE_BYTES", score_bytes)
    np.testing.assert_allclose(np.array(attention.causal_attention(q, k, v, scale=0.25)), whole, atol=2e-6)
