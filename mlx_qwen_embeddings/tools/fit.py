"""Settings for one machine, a bound on memory and a wait, found by measuring the model for a few seconds."""

import re
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlx_qwen_embeddings.compute.memory import resident_memory
from mlx_qwen_embeddings.compute.mlx.backend import CACHE_LIMIT, kept_memory
from mlx_qwen_embeddings.compute.mlx.blas import cores
from mlx_qwen_embeddings.compute.mlx.lanes import MOST_LANES
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.tools.labelled import passages

BUDGETS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
"""Tokens of a batch that are tried, until one takes too long or too much."""

WORTH = 0.03
"""A larger batch has to be faster by this part: a smaller one lets others in sooner."""

WORDS = 60
"""Words of a text that is measured with: about 90 tokens."""

UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True, slots=True)
class Trial:
    """What one choice did: seconds of a batch, tokens a second, bytes of the process at most."""

    lanes: int
    batch_tokens: int
    seconds: float
    tokens_per_second: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """The settings that were chosen, and what they are expected to do.

    Attributes:
        settings: To open an engine with.
        expected: The trial that they rest on.
        query_seconds: Time of one query while nothing else runs.
        device: "cpu" or "gpu".
        trials: All that was measured.
    """

    settings: EngineSettings
    expected: Trial
    query_seconds: float
    device: str
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        chosen, best = self.settings, self.expected
        alone, behind = 1000 * self.query_seconds, 1000 * (best.seconds + self.query_seconds)
        return (
            f"{chosen.model}: batch_tokens={chosen.batch_tokens}, lanes={chosen.lanes}, dtype={chosen.dtype}, "
            f"cache_bytes={chosen.cache_bytes} on this {self.device}. Expected: {best.tokens_per_second:,.0f} tokens a "
            f"second; a query alone {alone:.0f} ms, and at most {behind:.0f} ms behind a batch of others; "
            f"{(best.memory_bytes + chosen.cache_bytes) / 1e9:.2f} GB with a full cache."
        )


def fit(
    model: str | None = None,
    *,
    max_memory: str | int | None = None,
    target_latency_ms: float | None = None,
    seconds: float = 8.0,
    **overrides: Any,
) -> Fit:
    """Load the model, try batches of growing size, and choose.

    Of what keeps the bounds, the fastest is taken, by tokens a second, and the smallest batch that is nearly as fast.
    Memory is that of the whole process, as the system counts it, with half of what is left given to the cache.

    Args:
        model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
        max_memory: Most memory of the process with the cache full, as "2GB", "512MiB" or bytes; None sets no bound.
        target_latency_ms: Most milliseconds that a query may take that comes while a batch of others runs.
        seconds: How long to measure, beside loading.
        **overrides: See ``EngineSettings``; what is given stays as it is.

    Raises:
        ValueError: When nothing keeps the bounds; the message says what the least is.
    """
    most = None if max_memory is None else parse_bytes(max_memory)
    base = EngineSettings.from_env(model=model, **overrides)
    trials: list[Trial] = []
    queries: dict[int, float] = {}
    device, dtype = "", ""
    ways = _lanes(base)
    for lanes in ways:
        tried = {"lanes": lanes, "batch_tokens": BUDGETS[-1], "cache_bytes": 0, "cache_path": None}
        before = resident_memory()
        with EmbeddingEngine(settings=base.model_copy(update=tried)) as engine:
            engine.warmup()
            device, dtype = engine.facts.device, engine.facts.dtype
            queries[lanes] = _query_seconds(engine)
            budgets = BUDGETS if base.batch_tokens is None else (base.batch_tokens,)
            trials += _trials(engine, lanes, budgets, before, seconds / len(ways))
        if device == "gpu":
            break
    best = _choose(trials, queries, most, target_latency_ms)
    room = base.cache_bytes if most is None else min(base.cache_bytes, (most - best.memory_bytes) // 2)
    chosen = {"lanes": best.lanes, "batch_tokens": best.batch_tokens, "dtype": dtype}
    kept = base.cache_bytes if "cache_bytes" in overrides else room
    return Fit(base.model_copy(update=chosen | {"cache_bytes": kept}), best, queries[best.lanes], device, tuple(trials))


def parse_bytes(amount: str | int) -> int:
    """Read "2GB", "1.5 GiB" or a number of bytes.

    Raises:
        ValueError: When it is none of these, or nothing is left.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(amount).lower())
    if found is None or found[2] not in UNITS or not float(found[1]):
        message = f'max_memory={amount!r} is no amount of memory: write "2GB", "512MiB" or a number of bytes'
        raise ValueError(message)
    return round(float(found[1]) * UNITS[found[2]])


def announce(found: Fit) -> None:
    """Tell the person at the keyboard what was chosen."""
    sys.stderr.write(f"{found}\n")


def _lanes(base: EngineSettings) -> tuple[int, ...]:
    if base.lanes is not None:
        return (base.lanes,)
    most = min(cores(), MOST_LANES)
    return (most, 1) if most > 1 else (1,)


def _query_seconds(engine: EmbeddingEngine) -> float:
    taken = []
    for number in range(6):
        start = time.perf_counter()
        engine.embed_query(f"what is written on page {number}?")
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def _trials(engine: EmbeddingEngine, lanes: int, budgets: tuple[int, ...], before: int, seconds: float) -> Iterator[Trial]:
    """Measure batch after batch; the first is always measured, and each twice."""
    start, texts = time.perf_counter(), _texts(budgets[-1] // 32)
    buffers = CACHE_LIMIT[engine.facts.device]  # a few batches do not fill them yet
    longest, last = max(engine.count_tokens(texts[:64])), 0.0
    for budget in budgets:
        # The next batch takes about twice as long as this one, twice.
        if last and time.perf_counter() - start + 4 * last > seconds:
            return
        some = texts[: max(1, budget // longest)]
        taken, tokens = [], engine.stats().tokens
        for _ in range(2):
            begun = time.perf_counter()
            engine.embed_documents(some)
            taken.append(time.perf_counter() - begun)
        last, stats = min(taken), engine.stats()
        memory = max(resident_memory(), before + stats.peak_memory_bytes) + max(0, buffers - kept_memory())
        yield Trial(lanes, budget, last, (stats.tokens - tokens) / 2 / last, memory)


def _texts(number: int) -> list[str]:
    words = " ".join(passages()).split()
    starts = [place * 37 % (len(words) - WORDS) for place in range(max(1, number))]
    return [" ".join(words[start : start + WORDS]) for start in starts]


def _choose(trials: list[Trial], queries: dict[int, float], most: int | None, target: float | None) -> Trial:
    small = [trial for trial in trials if most is None or trial.memory_bytes <= most]
    if not small:
        least = min(trial.memory_bytes for trial in trials)
        message = (
            f"the model needs at least {least / 1e9:.2f} GB here, more than max_memory: raise it, or take a smaller model"
        )
        raise ValueError(message)
    waits = {trial: 1000 * (trial.seconds + queries[trial.lanes]) for trial in small}
    soon = [trial for trial in small if target is None or waits[trial] <= target]
    if not soon:
        message = (
            f"a query behind a batch takes at least {min(waits.values()):.0f} ms here, more than "
            f"target_latency_ms={target:g}: raise it, or take a smaller model"
        )
        raise ValueError(message)
    fastest = max(trial.tokens_per_second for trial in soon)
    near = [trial for trial in soon if trial.tokens_per_second >= (1 - WORTH) * fastest]
    return min(near, key=lambda trial: (trial.batch_tokens, -trial.tokens_per_second))
