"""The linear layer against float64 numpy, in both orders of its product."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from mlx_qwen_embeddings.models import layers
from mlx_qwen_embeddings.models.layers import FEW_TOKENS, STEP, Linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 7), (2, 8), (1, FEW_TOKENS), (1, FEW_TOKENS + 1), (2, FEW_TOKENS)])
@pytest.mark.parametrize("large", [0, 2**22])
def test_both_orders_give_the_same(
    shape: tuple[int, int],
    bias: bool,  # noqa: FBT001 - a parameter of the test
    large: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "LARGE_WEIGHT", large)
    layer = Linear(24, 40, bias=bias)
    x = mx.random.normal((*shape, 24), key=mx.random.key(1))
    expected = np.array(x, np.float64) @ np.array(layer.weight, np.float64).T
    if bias:
        expected += np.array(layer.bias)
    found = layer(x)
    assert found.shape == (*shape, 40)
    np.testing.assert_allclose(np.array(found), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "plain"), [(1024, [FEW_TOKENS + 1]), (1023, [1, STEP - 1, STEP + 1, FEW_TOKENS, FEW_TOKENS + 1])]
)
def test_few_tokens_take_the_other_order(width: int, plain: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    parent = nn.Linear.__call__

    def watched(self: nn.Linear, x: mx.array) -> mx.array:
        taken.append(x.shape[1])
        return parent(self, x)

    monkeypatch.setattr(nn.Linear, "__call__", watched)
    layer = Linear(1024, width)  # 4 MiB, or a little less
    for tokens in (1, STEP - 1, STEP, STEP + 1, FEW_TOKENS, FEW_TOKENS + 1):
        mx.eval(layer(mx.ones((1, tokens, 1024))))
    assert taken == plain


def test_it_is_packed_like_its_parent() -> None:
    layer = Linear(64, 64, bias=False)
    assert isinstance(layer.to_quantized(group_size=64, bits=4), nn.QuantizedLinear)
