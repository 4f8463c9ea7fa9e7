"""Choose an engine's settings for this machine, a memory limit and a latency target, by measuring for a few seconds."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from mlx_qwen_embeddings.compute.memory import resident_memory
from mlx_qwen_embeddings.compute.mlx.backend import CACHE_LIMIT, kept_memory
from mlx_qwen_embeddings.compute.mlx.blas import cores
from mlx_qwen_embeddings.compute.mlx.lanes import MOST_LANES
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.tools.evaluate import passages

BATCH_TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
"""Batch sizes that are tried, in tokens, until one takes too long."""

WORTHWHILE_GAIN = 0.03
"""A batch that is faster by less than this is not worth its size: smaller batches let other calls in sooner."""

TEXT_WORDS = 60
"""Words of each text that is embedded, about 90 tokens."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One measured choice: seconds per batch, tokens per second, and peak memory of the process in bytes."""

    lanes: int
    batch_tokens: int
    seconds: float
    tokens_per_second: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """The chosen settings and what to expect of them. As text, both in a few sentences.

    Attributes:
        settings: To open an engine with.
        expected: The trial that the choice rests on.
        query_seconds: How long a query takes while nothing else runs.
        device: "cpu" or "gpu".
        trials: All measurements.
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
            f"cache_bytes={chosen.cache_bytes} on this {self.device}. Expected: {best.tokens_per_second:,.0f} tokens per "
            f"second; {alone:.0f} ms for a query alone, at most {behind:.0f} ms behind a batch of other texts; "
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
    """Load the model, measure batches of growing size, and choose batch size, lanes, compute type and cache size.

    The choice is the fastest that keeps both limits, or the smallest batch that is nearly as fast. Memory is that of the
    whole process, as the system counts it. The cache gets half of what is left.

    Args:
        model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
        max_memory: Maximum memory of the process with a full cache: "2GB", "512MiB" or a number of bytes; None sets no
            limit.
        target_latency_ms: Maximum milliseconds for a query that arrives while a batch of other texts runs; None sets no
            limit.
        seconds: How long to measure, not counting the time to load the model.
        **overrides: Fields of ``EngineSettings`` that stay as given.

    Raises:
        ValueError: If nothing keeps the limits; the message says how much is needed.
    """
    limit = None if max_memory is None else parse_bytes(max_memory)
    base = EngineSettings.from_env(model=model, **overrides)
    trials: list[Trial] = []
    queries: dict[int, float] = {}
    device, dtype = "", ""
    most_lanes = min(cores(), MOST_LANES)
    lane_counts = {most_lanes, 1} if base.lanes is None else {base.lanes}
    for lanes in sorted(lane_counts, reverse=True):
        tried = {"lanes": lanes, "batch_tokens": BATCH_TOKENS[-1], "cache_bytes": 0, "cache_path": None}
        before = resident_memory()
        with EmbeddingEngine(settings=base.model_copy(update=tried)) as engine:
            engine.warmup()
            device, dtype = engine.facts.device, engine.facts.dtype
            queries[lanes] = _query_seconds(engine)
            sizes = BATCH_TOKENS if base.batch_tokens is None else (base.batch_tokens,)
            trials += _measure(engine, lanes, sizes, before, seconds / len(lane_counts))
        if device == "gpu":
            break  # lanes are for CPUs
    best = _choose(trials, queries, limit, target_latency_ms)
    cache_bytes = base.cache_bytes
    if limit is not None and "cache_bytes" not in overrides:
        cache_bytes = min(cache_bytes, (limit - best.memory_bytes) // 2)
    chosen = {"lanes": best.lanes, "batch_tokens": best.batch_tokens, "dtype": dtype, "cache_bytes": cache_bytes}
    return Fit(base.model_copy(update=chosen), best, queries[best.lanes], device, tuple(trials))


def parse_bytes(amount: str | int) -> int:
    """Return the bytes of "2GB", "1.5 GiB" or a number; raise a ``ValueError`` for anything else."""
    try:
        return TypeAdapter(ByteSize).validate_python(amount)
    except ValidationError as error:
        raise ValueError(
            f'max_memory={amount!r} is not an amount of memory: write "2GB", "512MiB" or a number of bytes'
        ) from error


def _query_seconds(engine: EmbeddingEngine) -> float:
    taken = []
    for number in range(6):
        start = time.perf_counter()
        engine.embed_query(f"what is written on page {number}?")
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])  # the first is slower


def _measure(engine: EmbeddingEngine, lanes: int, sizes: tuple[int, ...], before: int, seconds: float) -> Iterator[Trial]:
    """Measure each batch size twice until the time is up; the first size is always measured."""
    start, words = time.perf_counter(), " ".join(passages()).split()
    places = [number * 37 % (len(words) - TEXT_WORDS) for number in range(max(1, sizes[-1] // 32))]
    texts = [" ".join(words[place : place + TEXT_WORDS]) for place in places]
    free_buffers = CACHE_LIMIT[engine.facts.device]  # a few batches do not fill them yet
    longest, last = max(engine.count_tokens(texts[:64])), 0.0
    for size in sizes:
        # The next batch takes about twice as long as the last one, and runs twice.
        if last and time.perf_counter() - start + 4 * last > seconds:
            return
        batch = texts[: max(1, size // longest)]
        taken, tokens = [], engine.stats().tokens
        for _ in range(2):
            begun = time.perf_counter()
            engine.embed_documents(batch)
            taken.append(time.perf_counter() - begun)
        last, stats = min(taken), engine.stats()
        memory = max(resident_memory(), before + stats.peak_memory_bytes) + max(0, free_buffers - kept_memory())
        yield Trial(lanes, size, last, (stats.tokens - tokens) / 2 / last, memory)


def _choose(trials: list[Trial], queries: dict[int, float], limit: int | None, target: float | None) -> Trial:
    small = [trial for trial in trials if limit is None or trial.memory_bytes <= limit]
    if not small:
        least = min(trial.memory_bytes for trial in trials)
        raise ValueError(
            f"the model needs at least {least / 1e9:.2f} GB here, more than max_memory: raise it, or take a smaller model"
        )
    waits = {trial: 1000 * (trial.seconds + queries[trial.lanes]) for trial in small}
    quick = [trial for trial in small if target is None or waits[trial] <= target]
    if not quick:
        raise ValueError(
            f"a query behind a batch takes at least {min(waits.values()):.0f} ms here, more than "
            f"target_latency_ms={target:g}: raise it, or take a smaller model"
        )
    fastest = max(trial.tokens_per_second for trial in quick)
    near = [trial for trial in quick if trial.tokens_per_second >= (1 - WORTHWHILE_GAIN) * fastest]
    return min(near, key=lambda trial: (trial.batch_tokens, -trial.tokens_per_second))
