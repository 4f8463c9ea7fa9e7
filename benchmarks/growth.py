"""Measure how cost grows with the number of texts, their length, the number of callers, and the size of a call."""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import make
from benchmarks.texts import WORDS, documents, queries

NUMBERS = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
LENGTHS = (8, 32, 128, 512, 2048, 8192)
CALLERS = (1, 4, 16, 64, 256)
BATCHES = (1, 8, 32, 128, 256)

FEW_TOKENS = 512
"""Longer texts are measured less often."""

FEWEST = 16
"""Number of texts in a measurement with small calls."""


def with_texts(engine: Any) -> dict[int, float]:
    """Embed more and more texts of a few words. Return seconds by number."""
    found = {}
    for number in NUMBERS:
        texts = [f"{text} {place}" for place, text in enumerate(queries(number))]
        start = time.perf_counter()
        engine.embed_documents(texts)
        found[number] = time.perf_counter() - start
    return found


def with_length(engine: Any, rounds: int) -> dict[int, float]:
    """Embed one text of more and more tokens. Return median seconds by length."""
    text = " ".join(WORDS[:9000])
    found = {}
    for length in (length for length in LENGTHS if length <= engine.limit):
        times = []
        for _ in range(rounds if length > FEW_TOKENS else 5 * rounds):
            start = time.perf_counter()
            engine.embed_documents([text], max_length=length)
            times.append(time.perf_counter() - start)
        found[length] = statistics.median(times)
    return found


def with_callers(engine: Any) -> dict[int, dict[str, float]]:
    """Run more and more callers that embed one query after another. Return queries per second and latencies."""

    async def caller(texts: list[str], latencies: list[float]) -> None:
        for text in texts:
            start = time.perf_counter()
            await engine.aembed_query(text)
            latencies.append(time.perf_counter() - start)

    async def all_of(number: int) -> dict[str, float]:
        each = max(2, 512 // number)
        texts = [f"{text} {place}" for place, text in enumerate(queries(number * each))]
        latencies: list[float] = []
        start = time.perf_counter()
        await asyncio.gather(*(caller(texts[place::number], latencies) for place in range(number)))
        taken, latencies = time.perf_counter() - start, sorted(latencies)
        at = {
            name: latencies[int(part * (len(latencies) - 1))] for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        }
        return at | {"per_second": len(texts) / taken}

    return {number: asyncio.run(all_of(number)) for number in CALLERS}


def with_batch(engine: Any, rounds: int) -> dict[int, float]:
    """Embed mixed documents in calls of more and more texts. Return texts per second by the size of a call."""
    found = {}
    for size in BATCHES:
        some = documents(max(size, FEWEST), longest=60)  # with the same spread of lengths, whatever the number
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            for at in range(0, len(some), size):
                engine.embed_documents(some[at : at + size])
            times.append(time.perf_counter() - start)
        found[size] = len(some) / statistics.median(times)
    return found


def run(work: Path, rounds: int) -> dict[str, Any]:
    """Run all cases, and return the results by case."""
    from mlx_qwen_embeddings import EmbeddingEngine

    found: dict[str, Any] = {}
    with EmbeddingEngine("nano", cache_bytes=0, device="cpu").warmup() as engine:
        found["nano, seconds by texts"] = with_texts(engine)
        found["nano, by callers"] = with_callers(engine)
        found["nano, texts a second by size of a call"] = with_batch(engine, rounds)
        found["nano, seconds by length"] = with_length(engine, rounds)
    with EmbeddingEngine(str(make(work / "0.6B")), cache_bytes=0, device="cpu").warmup() as engine:
        found["0.6B, seconds by length"] = with_length(engine, 1)
        found["0.6B, texts a second by size of a call"] = with_batch(engine, 1)
    return found
