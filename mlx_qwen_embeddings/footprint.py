"""What a piece of a batch takes in memory on the CPU, estimated before it is run.

A process that the system kills for want of memory cannot catch anything.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_qwen_embeddings.memory import available_memory
from mlx_qwen_embeddings.models.attention import CAUSAL_ROWS, SCORE_BYTES

HIDDEN_ROWS, INNER_ROWS, HEAD_ROWS = 6, 3, 3
"""Arrays of a layer that live at once: as wide as the hidden states, as the feed-forward, as all heads. With the scores
below they give 1.1 to 2.1 of what MLX holds at its peak, on nano, on the 0.6B's shape at a quarter of its width, and where
one head reads up to 32,768 tokens."""

SCORES = 2
"""Arrays as large as the scores of a block of attention that live at once."""

WORTH_ASKING = 2**28
"""Below so many bytes the system is not asked how much is free."""

SHARE = 0.9
"""Part of the free memory that a batch may take."""


def piece_bytes(config: Mapping[str, Any], rows: int, length: int, before: int = 0) -> int:
    """Estimate the most bytes of arrays beside the weights while a piece runs in float32.

    Args:
        config: The model's ``config.json``.
        rows: Texts of the piece.
        length: Tokens of each, padding counted.
        before: Tokens of a kept prompt.
    """
    heads, hidden, inner = (int(config[name]) for name in ("num_attention_heads", "hidden_size", "intermediate_size"))
    head_dim = int(config.get("head_dim") or hidden // heads)
    width = HIDDEN_ROWS * hidden + INNER_ROWS * inner + HEAD_ROWS * heads * head_dim
    scores = min(SCORE_BYTES, 4 * rows * heads * min(length, CAUSAL_ROWS) * (length + before))
    return 4 * rows * length * width + SCORES * scores


def check_memory(needed: Sequence[int], lanes: int, reusable: int, tokens: int) -> None:
    """Refuse a batch that memory does not hold.

    Args:
        needed: Bytes of each of its pieces.
        lanes: How many of them run at once.
        reusable: Bytes that were allocated before and are free again.
        tokens: Of the whole batch, for the message.

    Raises:
        MemoryError: When it would not fit; the message says what it needs and what there is.
    """
    together = sum(sorted(needed)[-lanes:])
    if together < WORTH_ASKING:
        return
    available = available_memory()
    if available is None or together <= SHARE * (available + reusable):
        return
    message = (
        f"out of memory: {tokens:,} tokens at once need about {together / 1e9:.1f} GB beside the weights, and "
        f"{(available + reusable) / 1e9:.1f} GB are free: free some, or cut the text with max_length"
    )
    raise MemoryError(message)
