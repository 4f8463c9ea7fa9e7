"""Measure memory over a long stream: its peak, and whether it grows."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import make
from benchmarks.texts import documents

STREAMED = {"nano": (100_000, 60), "0.6B": (200, 320)}
"""Number of texts, and words of the longest one: enough for some minutes."""

BLOCKS = 50

CACHE = 32 * 2**20
"""Bytes of the cache: full after a fifth of the stream, so that what grows later is not the cache."""


def long_stream(model: str, number: int, longest: int) -> dict[str, Any]:
    """Stream different documents in this process, and record its memory after every block."""
    from mlx_qwen_embeddings import EmbeddingEngine
    from mlx_qwen_embeddings.compute.memory import resident_memory
    from mlx_qwen_embeddings.registry import NANO_FOLDER

    def texts() -> Iterator[str]:
        given = documents(min(number, 2000), longest=longest)
        return (f"{place} {text}" for place, text in enumerate(islice(cycle(given), number)))

    with EmbeddingEngine(model, device="cpu", cache_bytes=CACHE).warmup() as engine:
        weights, start = engine.stats().memory_bytes, time.perf_counter()
        resident = [resident_memory() for _ in engine.stream_documents(texts(), block_size=number // BLOCKS)]
        taken = time.perf_counter() - start
        stats = engine.stats()
    folder = NANO_FOLDER if model == "nano" else Path(model)
    second, last = (statistics.median(resident[place : place + 10]) for place in (10, 40))
    return {
        "texts": number,
        "words of the longest": longest,
        "tokens": stats.tokens,
        "tokens/s": stats.tokens / taken,
        "stored, MB": sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6,
        "weights in memory, MB": weights / 1e6,
        "after a fifth, MB": second / 1e6,
        "at the end, MB": last / 1e6,
        "peak, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "resident": resident,
    }


def run(work: Path, rounds: int) -> dict[str, Any]:  # noqa: ARG001 - the signature of every part
    """Stream through nano and through the 0.6B's shape, each in its own process."""
    found = {}
    for name, sizes in STREAMED.items():
        model = name if name == "nano" else str(make(work / name))
        command = [sys.executable, "-m", "benchmarks.memory", model, *map(str, sizes)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[f"stream through {name}"] = json.loads(answer)
    return found


if __name__ == "__main__":
    print(json.dumps(long_stream(sys.argv[1], *map(int, sys.argv[2:]))))
