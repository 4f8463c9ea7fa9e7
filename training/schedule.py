"""When the student sees what: batches of similar length, the learning rate, and how much of the run is done."""

import math
import random
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

CHUNK = 40000
TOKENS_PER_BATCH = 4500
SMALLEST, LARGEST = 16, 512
PEAK_RATE = 1e-3
WARMUP_STEPS = 300
FLOOR = 0.03


def endless_batches(
    sizes: NDArray[np.int64], rng: np.random.Generator, shuffler: random.Random
) -> Iterator[NDArray[np.int64]]:
    """Yield batches of row numbers for ever; each pass over the corpus takes every row once.

    Rows are shuffled, cut into chunks, and sorted by size (with a little noise) inside a chunk, so that a batch
    holds texts of nearly one length and little padding.

    Args:
        sizes: Tokens of each text.
        rng: Shuffles the corpus.
        shuffler: Shuffles the batches of a chunk.
    """
    while True:
        shuffled = rng.permutation(len(sizes))
        for start in range(0, len(shuffled), CHUNK):
            chunk = shuffled[start : start + CHUNK]
            noisy = sizes[chunk] + rng.uniform(0, 3, len(chunk))
            batches = _cut(chunk[np.argsort(noisy)], sizes)
            shuffler.shuffle(batches)
            yield from batches


def _cut(rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut length-sorted rows into batches of about `TOKENS_PER_BATCH`, judged by a text a little further on."""
    batches, start = [], 0
    while start < len(rows):
        size = int(sizes[rows[min(start + 200, len(rows) - 1)]])
        count = max(SMALLEST, min(LARGEST, TOKENS_PER_BATCH // (size + 1)))
        batches.append(rows[start : start + count])
        start += count
    return batches


def learning_rate(step: int, done: float) -> float:
    """Return the rate: linear warm-up by steps, times a cosine by the share of the budget that is spent."""
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return PEAK_RATE * min(1, step / WARMUP_STEPS) * (cosine * (1 - FLOOR) + FLOOR)


def by_minutes(minutes: float) -> Callable[[int], float]:
    """Return a clock, started now, that tells the share of `minutes` that is spent (whatever the step)."""
    start = time.monotonic()
    return lambda _: (time.monotonic() - start) / (minutes * 60)


def by_steps(steps: int) -> Callable[[int], float]:
    """Return a clock that tells the share of `steps` that is spent: the same run on any machine."""
    return lambda step: step / steps
