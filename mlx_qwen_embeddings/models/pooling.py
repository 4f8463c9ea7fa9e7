"""Reduce hidden states to one vector per text."""

import mlx.core as mx

from mlx_qwen_embeddings.options import Pooling


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
