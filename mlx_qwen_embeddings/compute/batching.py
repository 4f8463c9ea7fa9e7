"""Pure functions that order texts by length, cut them into batches and pad them."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.tokenization import Ids


def length_order(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Give the positions from the shortest to the longest; equal lengths keep their order."""
    return np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")


SPREAD = 1.5
"""A batch ends where a text is so many times longer than its first one (plus 16 tokens): padding outgrows the gain."""


def cut(lengths: Sequence[int], budget: int, *, spread: float = SPREAD) -> list[range]:
    """Cut length-sorted texts into batches of like length and at most ``budget`` tokens, padding counted.

    Args:
        lengths: Ascending number of tokens of each text.
        budget: Most rows times longest row of a batch; a text longer than it is a batch of its own.
        spread: How many times longer (plus 16 tokens) than its first text a batch's last one may be.

    Returns:
        Ranges of positions that follow one another.
    """
    batches, start = [], 0
    while start < len(lengths):
        longest = spread * lengths[start] + 16
        fits = bisect_right(range(start + 1, len(lengths)), budget, key=lambda last: (last + 1 - start) * lengths[last])
        like = bisect_right(lengths, longest, start + 1)
        batches.append(range(start, min(start + 1 + fits, like)))
        start = batches[-1].stop
    return batches


PIECE_COST = 60
"""Tokens that could be computed in the time that one piece more costs."""


SLACKS = (1.0, 1.04, 1.08, 1.14, 1.2, 1.25)
"""How much larger than an even share a piece may be: rows are whole and padded, so the even share seldom comes out best."""


def pieces(lengths: Sequence[int], lanes: int, smallest: int, largest: int) -> list[range]:
    """Cut length-sorted rows into pieces that are padded by themselves, so that lanes side by side end soonest.

    Args:
        lengths: Ascending number of tokens of each row, at least one.
        lanes: How many pieces run at once.
        smallest: Fewest tokens that are worth a piece of their own.
        largest: Most tokens of a piece, padding counted; a longer row is a piece of its own.

    Returns:
        Ranges of positions that follow one another.
    """
    lanes = min(lanes, len(lengths))
    total = sum(lengths)
    shares = [total * slack / (lanes * turns) for turns in range(1, 5) for slack in SLACKS]
    budgets = {max(smallest, min(largest, round(share))) for share in [*shares, largest]}
    cuts = [cut(lengths, budget, spread=math.inf) for budget in sorted(budgets, reverse=True)]
    return min(cuts, key=lambda parts: _time([len(part) * lengths[part[-1]] for part in parts], lanes))


def _time(tokens: Sequence[int], lanes: int) -> int:
    """Give the time, in tokens, until the last lane ends when each takes the longest piece that is left."""
    ends = [0] * lanes
    for count in sorted(tokens, reverse=True):
        ends[ends.index(min(ends))] += count + PIECE_COST
    return max(ends)


def shared_prefix(rows: Sequence[Ids], prompt: Ids) -> int:
    """Count the ids of ``prompt`` that every row starts with, leaving each row at least one id of its own."""
    shared = min(len(prompt), *(len(row) - 1 for row in rows))
    for row in rows:
        differing = np.flatnonzero(row[:shared] != prompt[:shared])
        if len(differing):
            shared = int(differing[0])
    return shared


def pad(ids: Sequence[Ids], *, pad_id: int = 0, multiple: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Put rows of ids into one array, padded on the right.

    Attention is causal or masked by length, so the value of the padding never reaches a vector.

    Args:
        ids: Token ids of each row.
        pad_id: What to fill up with.
        multiple: Of what the width is.

    Returns:
        The padded ids, shape (rows, longest), and the number of real tokens of each row, shape (rows,).
    """
    lengths = np.fromiter((len(row) for row in ids), dtype=np.int32, count=len(ids))
    width = -(-int(lengths.max(initial=0)) // multiple) * multiple
    padded = np.full((len(ids), width), pad_id, dtype=np.int32)
    for row, values in zip(padded, ids, strict=True):
        row[: len(values)] = values
    return padded, lengths
