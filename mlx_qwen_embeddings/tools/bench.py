"""How fast a model is on this machine: throughput by batch size, latency by concurrency, and what the cache saves."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle, repeat
from typing import Any

import numpy as np

from mlx_qwen_embeddings._html import NotebookTable, Table
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.tools.evaluate import LABELLED, passages, read_retrieval

BATCH_SIZES = (1, 8, 32, 128)
CLIENTS = (1, 4, 16, 64)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Speed of calls with this many different paragraphs each, one call after the other."""

    batch_size: int
    texts_per_second: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Speed of this many concurrent clients, each of which asks one question after the other. Times in milliseconds."""

    clients: int
    queries_per_second: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class BenchReport(NotebookTable):
    """The result of a benchmark.

    Attributes:
        model: The model's name, as given.
        device: "cpu" or "gpu".
        dtype: Compute type.
        load_seconds: How long reading the weights took.
        throughput: One row per batch size; sizes that would take too long are left out.
        latency: One row per number of clients; numbers that would take too long are left out.
        cache_speedup: How many times faster the memory cache is than the model.
        seconds: How long the benchmark took.
    """

    model: str
    device: str
    dtype: str
    load_seconds: float
    throughput: list[Throughput]
    latency: list[Latency]
    cache_speedup: float
    seconds: float

    def _table(self) -> Table:
        facts = {"computes": f"{self.dtype} on {self.device}", "loaded in": f"{self.load_seconds:.1f} s"}
        facts |= {
            f"{row.batch_size} per call": f"{row.texts_per_second:,.1f} texts/s, {row.tokens_per_second:,.0f} tokens/s"
            for row in self.throughput
        }
        facts |= {
            f"{row.clients} clients": f"{row.queries_per_second:,.1f} queries/s, p50 {row.p50:,.1f}, p99 {row.p99:,.1f} ms"
            for row in self.latency
        }
        return self.model, facts | {"from the cache": f"{self.cache_speedup:,.0f} times as fast"}


def run_bench(model: str | None = None, *, seconds: float = 60, **settings: Any) -> BenchReport:
    """Measure a model.

    Args:
        model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
        seconds: Roughly how long to measure, not counting the time to load the model and to finish the last call.
        **settings: Fields of ``EngineSettings``.
    """
    start, questions = time.perf_counter(), list(read_retrieval(LABELLED).queries.values())
    with EmbeddingEngine(model, **(settings | {"cache_bytes": 0, "cache_path": None})) as engine:
        engine.warmup()
        throughput = _throughput(engine, passages(), 0.5 * seconds / len(BATCH_SIZES))
        latency = _latency(engine, questions, 0.4 * seconds / len(CLIENTS))
        load_seconds, facts, name = engine.stats().load_seconds, engine.facts, engine.settings.model
    with EmbeddingEngine(model, **(settings | {"cache_path": None})) as engine:
        speedup = _cache_speedup(engine.warmup(), questions[:32], 0.1 * seconds)
    spent = time.perf_counter() - start
    return BenchReport(name, facts.device, facts.dtype, load_seconds, throughput, latency, speedup, spent)


def _throughput(engine: EmbeddingEngine, texts: list[str], seconds: float) -> list[Throughput]:
    rows: list[Throughput] = []
    for size in BATCH_SIZES:
        # A call of the next size takes about as long as the same number of texts took in smaller calls.
        if rows and size / rows[-1].texts_per_second > 2 * seconds:
            break
        before = engine.stats().tokens
        batches = zip(*[cycle(texts)] * size, strict=True)  # each takes the next texts of one endless iterator
        calls, spent = _time_calls(engine.embed_documents, batches, seconds)
        rows.append(Throughput(size, calls * size / spent, (engine.stats().tokens - before) / spent))
    return rows


def _time_calls(call: Callable[[Any], Any], batches: Iterator[Any], seconds: float) -> tuple[int, float]:
    """Call until the time is up, at least once; return the number of calls and the seconds they took."""
    start, calls, spent = time.perf_counter(), 0, 0.0
    while not calls or spent < seconds:
        call(next(batches))
        calls, spent = calls + 1, time.perf_counter() - start
    return calls, spent


def _latency(engine: EmbeddingEngine, texts: list[str], seconds: float) -> list[Latency]:
    rows: list[Latency] = []
    for clients in CLIENTS:
        if rows and clients / rows[-1].queries_per_second > 2 * seconds:
            break
        taken, spent = asyncio.run(_ask(engine, texts, clients, seconds))
        p50, p95, p99 = (float(value) * 1000 for value in np.percentile(taken, (50, 95, 99)))
        rows.append(Latency(clients, len(taken) / spent, p50, p95, p99))
    return rows


async def _ask(engine: EmbeddingEngine, texts: list[str], clients: int, seconds: float) -> tuple[list[float], float]:
    start, numbers = time.perf_counter(), count()
    taken: list[float] = []

    async def client() -> None:
        while not taken or time.perf_counter() - start < seconds:
            begun = time.perf_counter()
            await engine.aembed_query(texts[next(numbers) % len(texts)])
            taken.append(time.perf_counter() - begun)

    await asyncio.gather(*(client() for _ in range(clients)))
    return taken, time.perf_counter() - start


def _cache_speedup(engine: EmbeddingEngine, texts: list[str], seconds: float) -> float:
    _, computed = _time_calls(engine.embed_queries, repeat(texts), 0)
    calls, spent = _time_calls(engine.embed_queries, repeat(texts), min(seconds, 1))
    return computed / (spent / calls)
