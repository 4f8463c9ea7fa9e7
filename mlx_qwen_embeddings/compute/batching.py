"""Order texts by length, cut them into batches and pad them."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.tokenization import Ids


def length_order(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return positions from shortest to longest. Equal lengths keep their order."""
    return np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")


SPREAD = 1.5
"""A batch ends before a text more than this many times longer than its first (plus 16 tokens): padding would cost more
than the batch gains."""


def cut(lengths: Sequence[int], budget: int, *, spread: float = SPREAD) -> list[range]:
    """Cut texts, sorted by length, into batches of similar length and at most ``budget`` tokens including padding.

    Args:
        lengths: Tokens of each text, ascending.
        budget: Upper limit on rows times longest row of a batch. A longer text is a batch of its own.
        spread: How many times longer (plus 16 tokens) the last text of a batch may be than its first.

    Returns:
        Consecutive ranges of positions.
    """
    batches, start = [], 0
    while start < len(lengths):
        longest = spread * lengths[start] + 16
        fits = bisect_right(range(start + 1, len(lengths)), budget, key=lambda last: (last + 1 - start) * lengths[last])
        similar = bisect_right(lengths, longest, start + 1)
        batches.append(range(start, min(start + 1 + fits, similar)))
        start = batches[-1].stop
    return batches


PIECE_COST = 60
"""Overhead of one more piece, as the number of tokens that could be computed in that time."""

SLACKS = (1.0, 1.04, 1.08, 1.14, 1.2, 1.25)
"""Factors on an even share of tokens to try as the size of a piece. Rows are whole and padded, so the even share itself is
seldom best."""


def pieces(lengths: Sequence[int], lanes: int, smallest: int, largest: int) -> list[range]:
    """Cut rows, sorted by length, into pieces padded separately, so that lanes running side by side finish soonest.

    Args:
        lengths: Tokens of each row, ascending, at least one.
        lanes: How many pieces run at once.
        smallest: Fewest tokens that are worth a separate piece.
        largest: Most tokens of a piece including padding. A longer row is a piece of its own.

    Returns:
        Consecutive ranges of positions.
    """
    lanes = min(lanes, len(lengths))
    total = sum(lengths)
    shares = [total * slack / (lanes * rounds) for rounds in range(1, 5) for slack in SLACKS]
    budgets = {max(smallest, min(largest, round(share))) for share in [*shares, largest]}
    cuts = [cut(lengths, budget, spread=math.inf) for budget in sorted(budgets, reverse=True)]
    return min(cuts, key=lambda parts: _time([len(part) * lengths[part[-1]] for part in parts], lanes))


def _time(tokens: Sequence[int], lanes: int) -> int:
    """Return the time, in tokens, until the last lane ends if each takes the longest piece left."""
    ends = [0] * lanes
    for count in sorted(tokens, reverse=True):
        ends[ends.index(min(ends))] += count + PIECE_COST
    return max(ends)


def shared_prefix(rows: Sequence[Ids], prompt: Ids) -> int:
    """Count how many ids of ``prompt`` every row starts with, leaving each row at least one id of its own."""
    shared = min(len(prompt), *(len(row) - 1 for row in rows))
    for row in rows:
        differing = np.flatnonzero(row[:shared] != prompt[:shared])
        if len(differing):
            shared = int(differing[0])
    return shared


def pad(ids: Sequence[Ids], *, pad_id: int = 0, multiple: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Put rows of ids into one array, padded on the right.

    Attention is causal or masked by length, so the padding value never affects a vector.

    Args:
        ids: Token ids of each row.
        pad_id: The padding value.
        multiple: Round the width up to a multiple of this.

    Returns:
        The padded ids, shape (rows, width), and the number of real tokens of each row, shape (rows,).
    """
    lengths = np.fromiter((len(row) for row in ids), dtype=np.int32, count=len(ids))
    width = -(-int(lengths.max(initial=0)) // multiple) * multiple
    padded = np.full((len(ids), width), pad_id, dtype=np.int32)
    for row, values in zip(padded, ids, strict=True):
        row[: len(values)] = values
    return padded, lengths
