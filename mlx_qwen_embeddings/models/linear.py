"""A linear layer that is fast for few tokens on the CPU."""

import mlx.core as mx
from mlx import nn

from mlx_qwen_embeddings.models.activations import by_hand

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
