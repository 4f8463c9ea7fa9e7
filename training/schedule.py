"""When the student sees what: batches of similar length, the learning rate, and how much of the run is done."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from training.config import SEED

CHUNK = 40_000
SMALLEST, LARGEST = 16, 512
SHORTEST = 24
WARMUP_STEPS = 100
DECAY_FROM = 0.6
FLOOR = 0.02


def batches_of_pass(
    rows: NDArray[np.int64], sizes: NDArray[np.int64], number: int, tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the batches of one pass over the texts, the same ones for the same number.

    Rows are shuffled, cut into chunks, and sorted by size (with a little noise) inside a chunk, so that a batch
    holds texts of nearly one length and little padding.

    Args:
        rows: What to take.
        sizes: Tokens of each text there is.
        number: Which pass it is.
        tokens: About how many a batch is to hold.
    """
    rng = np.random.default_rng([SEED, number])
    shuffled = rng.permutation(rows)
    for chunk in np.array_split(shuffled, -(-len(shuffled) // CHUNK)):
        noisy = sizes[chunk] + rng.uniform(0, 3, len(chunk))
        batches = _cut(chunk[np.argsort(noisy)], sizes, tokens)
        yield from (batches[place] for place in rng.permutation(len(batches)))


def _cut(rows: NDArray[np.int64], sizes: NDArray[np.int64], tokens: int) -> list[NDArray[np.int64]]:
    """Cut length-sorted rows into batches of about so many tokens, judged by a text a little further on.

    Short texts count as if they were longer, so that none holds thousands. A remainder too small for a batch goes with the
    last one.
    """
    batches, start = [], 0
    largest = max(LARGEST, tokens // SHORTEST)
    while start < len(rows):
        size = int(sizes[rows[min(start + 200, len(rows) - 1)]])
        count = max(SMALLEST, min(largest, tokens // (size + 1)))
        if len(rows) - start - count < SMALLEST:
            count = len(rows) - start
        batches.append(rows[start : start + count])
        start += count
    return batches


def learning_rate(step: int, done: float) -> float:
    """Return the share of the peak rate: a linear warm-up by steps, then level, then down in a straight line.

    Args:
        step: Steps so far.
        done: Share of the budget that is spent. The level stretch can be made longer later (Hu et al. 2024, MiniCPM).
    """
    falling = min(1.0, max(0.0, (done - DECAY_FROM) / (1 - DECAY_FROM)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 - falling * (1 - FLOOR))


def by_minutes(minutes: float, spent: float = 0.0) -> Callable[[int], float]:
    """Return a clock, started now, that tells the share of `minutes` that is spent (whatever the step).

    Args:
        minutes: The budget.
        spent: Minutes of it that earlier runs have spent.
    """
    start = time.monotonic() - 60 * spent
    return lambda _: (time.monotonic() - start) / (minutes * 60)


def by_steps(steps: float) -> Callable[[int], float]:
    """Return a clock that tells the share of `steps` that is spent: the same run on any machine."""
    return lambda step: step / steps
