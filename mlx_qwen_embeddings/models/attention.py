"""Attention whose scores take a bounded amount of memory."""

from collections.abc import Callable
from functools import lru_cache

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.models.activations import by_hand, settled, softmax_in_place

KeysValues = tuple[mx.array, mx.array]
"""Keys and values of one layer, each of shape (B, K, L, d)."""

SCORE_BYTES = 64 * 2**20
"""Most bytes of one block of scores on the CPU, where they are stored. A few such arrays live at once."""

FUSED_SCORE_BYTES = 256 * 2**20
"""Most bytes of one block of scores elsewhere: some of MLX's fused kernels store them too."""

CAUSAL_ROWS = 128
"""Queries in a block on the CPU. A block needs only the keys up to its end, which saves half of a long text's scores."""

HIDDEN = -1e30
"""Added to scores that must not count. It is finite, so that a row of nothing else gives no NaN."""


def causal_attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float) -> mx.array:
    """Attend from every position to itself and those before it. The P additional keys stand before all queries.

    Long inputs are computed in blocks of queries, each against the keys up to its end. This bounds the memory for the
    scores and does not change the result.

    Args:
        q: Queries, shape (B, H, L, d).
        k: Keys, shape (B, K, P + L, d), with K a divisor of H.
        v: Values, shape (B, K, P + L, d).
        scale: Factor for the scores.

    Returns:
        Shape (B, H, L, d).
    """
    batch, heads, length, _ = q.shape
    before = k.shape[2] - length
    attend, rows = _fused_causal, max(1, FUSED_SCORE_BYTES // (4 * batch * heads * k.shape[2]))
    if by_hand(q):
        attend, rows = _causal_by_hand, max(1, min(CAUSAL_ROWS, SCORE_BYTES // (4 * batch * heads * k.shape[2])))

    def block(start: int, end: int) -> mx.array:
        # The keys end where the block ends, so its last query sees all of them.
        return attend(q[:, :, start:end], k[:, :, : before + end], v[:, :, : before + end], scale)

    return _in_blocks(block, length, rows)


def padded_attention(q: mx.array, k: mx.array, v: mx.array, lengths: mx.array, *, scale: float) -> mx.array:
    """Attend from every position to all real positions of its text.

    Long inputs are computed in blocks of queries, as in ``causal_attention``.

    Args:
        q: Queries, shape (B, H, L, d).
        k: Keys, shape (B, H, L, d).
        v: Values, shape (B, H, L, d).
        lengths: Real tokens of each text, padded on the right; shape (B,).
        scale: Factor for the scores.

    Returns:
        Shape (B, H, L, d). Padding attends to the real positions too, so that nothing is NaN.
    """
    batch, heads, length, _ = q.shape
    real = (mx.arange(length) < lengths[:, None])[:, None, None]  # (B, 1, 1, L)
    attend = _by_hand if by_hand(q) else _fused
    most = SCORE_BYTES if by_hand(q) else FUSED_SCORE_BYTES
    rows = max(1, most // (4 * batch * heads * length))
    return _in_blocks(lambda start, end: attend(q[:, :, start:end], k, v, real, scale), length, rows)


def _in_blocks(block: Callable[[int, int], mx.array], length: int, rows: int) -> mx.array:
    """Attend from ``rows`` queries at a time, with only one block's scores in memory."""
    if rows >= length:
        return block(0, length)
    blocks = [settled(block(start, min(start + rows, length))) for start in range(0, length, rows)]
    return mx.concatenate(blocks, axis=2)


def _fused_causal(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")


def _causal_by_hand(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    batch, heads, rows, width = q.shape
    keys, groups = k.shape[2], heads // k.shape[1]
    # Stack the query heads that share a key head, instead of repeating keys and values.
    stacked = (q * scale).reshape(batch, k.shape[1], groups * rows, width)
    weights = (stacked @ k.swapaxes(-1, -2)).reshape(batch, k.shape[1], groups, rows, keys)
    sums = softmax_in_place(weights, _later(rows))
    out = weights.reshape(batch, k.shape[1], groups * rows, keys) @ v
    return out.reshape(batch, heads, rows, width) / sums.reshape(batch, heads, rows, 1)


@lru_cache(maxsize=CAUSAL_ROWS)  # needed in every layer
def _later(rows: int) -> NDArray[np.float32]:
    return np.triu(np.full((rows, rows), HIDDEN, np.float32), k=1)


def _fused(q: mx.array, k: mx.array, v: mx.array, real: mx.array, scale: float) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=real)


def _by_hand(q: mx.array, k: mx.array, v: mx.array, real: mx.array, scale: float) -> mx.array:
    # Adding a mask takes a thirtieth of the time of choosing by it.
    weights = (q * scale) @ k.swapaxes(-1, -2) + mx.where(real, 0.0, HIDDEN)
    sums = softmax_in_place(weights)
    return (weights @ v) / sums
