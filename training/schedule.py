"""Schedule the training: batches of similar length, the learning rate, and the share of the run that is done."""

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
    """Yield the batches of one pass over the texts. The same number always gives the same batches.

    Rows are shuffled, cut into chunks, and sorted by size (with a little noise) within a chunk, so that the texts of a
    batch have nearly the same length and need little padding.

    Args:
        rows: Rows to take.
        sizes: Tokens of every text.
        number: Number of the pass.
        tokens: Approximate tokens per batch.
    """
    rng = np.random.default_rng([SEED, number])
    shuffled = rng.permutation(rows)
    for chunk in np.array_split(shuffled, -(-len(shuffled) // CHUNK)):
        noisy = sizes[chunk] + rng.uniform(0, 3, len(chunk))
        batches = _cut(chunk[np.argsort(noisy)], sizes, tokens)
        yield from (batches[place] for place in rng.permutation(len(batches)))


def _cut(rows: NDArray[np.int64], sizes: NDArray[np.int64], tokens: int) -> list[NDArray[np.int64]]:
    """Cut rows, sorted by length, into batches of about ``tokens`` tokens, estimated from a text a little further on.

    Short texts count as longer, so that no batch holds thousands. A remainder too small for a batch joins the last one.
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
    """Return the share of the peak learning rate: linear warm-up, then constant, then linear decay.

    Args:
        step: Steps so far.
        done: Share of the budget that is spent. The constant phase can be extended later (Hu et al. 2024, MiniCPM).
    """
    falling = min(1.0, max(0.0, (done - DECAY_FROM) / (1 - DECAY_FROM)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 - falling * (1 - FLOOR))


def by_minutes(minutes: float, spent: float = 0.0) -> Callable[[int], float]:
    """Return a clock, started now, that returns the share of `minutes` that is spent, whatever the step.

    Args:
        minutes: The budget.
        spent: Minutes that earlier runs have used.
    """
    start = time.monotonic() - 60 * spent
    return lambda _: (time.monotonic() - start) / (minutes * 60)


def by_steps(steps: float) -> Callable[[int], float]:
    """Return a clock that returns the share of `steps` done, so that the run is the same on any machine."""
    return lambda step: step / steps
