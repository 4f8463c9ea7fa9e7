"""A linear layer that is fast for few tokens on the CPU, and pooling."""

import mlx.core as mx
from mlx import nn

from mlx_qwen_embeddings.models.activations import by_hand
from mlx_qwen_embeddings.options import Pooling

FEW_TOKENS = 256
"""Up to this many tokens, a large weight is the first factor. MKL repacks the second matrix for every product, and divides
the first among its threads: with 16 tokens it reads 11 GB of weights a second instead of 6, with 64 tokens it computes 138
GFLOP/s instead of 105, with 512 there is no difference (two Zen 4 cores)."""

LARGE_WEIGHT = 2**22
"""Bytes from which this pays off. Smaller weights are repacked within the processor's caches: 32 short texts on all-MiniLM
took 112 ms in the usual order, and 136 with the weight first."""

STEP = 16
"""Tokens that MKL computes at a time. It takes longer for 12 than for 16, so the encoder pads a text that runs alone to a
multiple of this. Exactly this many tokens are faster with the weight first, whatever its size."""


class Linear(nn.Linear):
    """Compute ``x @ weight.T + bias``, as the parent class does."""

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.size // x.shape[-1]
        few = tokens <= FEW_TOKENS and (self.weight.nbytes >= LARGE_WEIGHT or tokens == STEP)
        if not few or not by_hand(x):
            plain: mx.array = super().__call__(x)
            return plain
        product = (self.weight @ x.reshape(tokens, -1).T).T
        if "bias" in self:
            product = product + self.bias
        return product.reshape(*x.shape[:-1], -1)


def pool(hidden: mx.array, lengths: mx.array, pooling: Pooling) -> mx.array:
    """Reduce the tokens of each text to one vector.

    Padding is found by length, never by comparing ids with the padding id, because the end token may have the same id.

    Args:
        hidden: Shape (B, L, D), padded on the right.
        lengths: Real tokens of each row, at least 1; shape (B,).
        pooling: "last" or "first" real token, "mean" or "max" over the real tokens.

    Returns:
        Shape (B, D), float32.
    """
    hidden = hidden.astype(mx.float32)
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[mx.arange(hidden.shape[0]), lengths - 1]
    real = (mx.arange(hidden.shape[1])[None, :] < lengths[:, None])[..., None]
    if pooling == "max":
        return mx.where(real, hidden, -mx.inf).max(axis=1)
    return mx.where(real, hidden, 0).sum(axis=1) / lengths[:, None]
