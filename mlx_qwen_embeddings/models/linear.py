"""A linear layer that multiplies in the order that is fast for a few tokens on the CPU."""

import mlx.core as mx
from mlx import nn

from mlx_qwen_embeddings.models.activations import by_hand

FEW_TOKENS = 256
"""Up to so many, a large weight stands first. MKL packs its second matrix anew for every product, and shares the first one
out among its threads: with 16 tokens 11 GB of weights a second against 6, with 64 tokens 138 GFLOP/s against 105, with 512
alike (two Zen 4 cores)."""

LARGE_WEIGHT = 2**22
"""Bytes from which on that pays. Smaller ones are packed within the processor's caches: 32 short texts on all-MiniLM took
112 ms in the plain order against 136."""

STEP = 16
"""As many tokens as MKL computes at a time: it takes longer for 12 than for 16, so the encoder pads a text that is run by
itself to a multiple; and so many by themselves are faster with any weight first."""


class Linear(nn.Linear):
    """``x @ weight.T + bias``, like its parent."""

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
