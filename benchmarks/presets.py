"""Measure what each preset is for: texts per second, the wait of a query during a long job, memory."""

import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.texts import documents, queries

PRESETS = ("from_env", "high_throughput", "low_latency", "low_memory")
FITS: dict[str, dict[str, Any]] = {
    "fit to 600 MB": {"max_memory": "600MB"},
    "fit to 60 ms": {"target_latency_ms": 60},
}
QUERIES = 30


def measure(preset: str, model: str) -> dict[str, float]:
    """Measure one preset in this process, with the expected values if it is a fitted one."""
    from mlx_qwen_embeddings import EngineSettings

    if preset not in FITS:
        return serve(getattr(EngineSettings, preset)(model=model, device="cpu"))
    # Fitted in its own process, so that fitting does not count in the peak measured here.
    told = subprocess.run([sys.executable, "-m", "benchmarks.presets", preset], check=True, stdout=subprocess.PIPE).stdout
    settings: dict[str, Any]
    expected: dict[str, float]
    settings, expected = json.loads(told)
    return serve(EngineSettings(**settings)) | expected


def fitted(preset: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Let ``fit`` choose for nano, and return its choice and what it expects, in the units of ``serve``."""
    from mlx_qwen_embeddings.tools.fit import fit

    found = fit("nano", device="cpu", **FITS[preset])
    best = found.expected
    chosen = found.settings.model_dump(include={"model", "device", "lanes", "batch_tokens", "cache_bytes"})
    return chosen, {
        "expected tokens/s": best.tokens_per_second,
        "expected wait, at most": best.seconds + found.query_seconds,
        "expected MB, at most": (best.memory_bytes + found.settings.cache_bytes) / 1e6,
    }


def serve(settings: Any) -> dict[str, float]:
    """Embed documents, then queries during a long job."""
    from mlx_qwen_embeddings import EmbeddingEngine

    texts = [f"{text} {place}" for place, text in enumerate(documents(1000, longest=180))]
    with EmbeddingEngine(settings=settings).warmup() as engine:
        start = time.perf_counter()
        engine.embed_documents(texts[:500])
        taken = time.perf_counter() - start
        tokens = engine.stats().tokens
        job = threading.Thread(target=engine.embed_documents, args=(texts[500:],))
        job.start()
        waits = []
        for text in queries(QUERIES):
            start = time.perf_counter()
            engine.embed_query(text)
            waits.append(time.perf_counter() - start)
            if not job.is_alive():
                break
        job.join()
    waits.sort()
    return {
        "texts/s": 500 / taken,
        "tokens/s": tokens / taken,
        "query beside a job, p50": waits[len(waits) // 2],
        "query beside a job, p95": waits[int(0.95 * (len(waits) - 1))],
        "queries": len(waits),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def run(work: Path, rounds: int) -> dict[str, Any]:  # noqa: ARG001 - the signature of every part
    """Measure every preset on nano, each in its own process, and return the medians."""
    found: dict[str, list[dict[str, float]]] = {preset: [] for preset in (*PRESETS, *FITS)}
    for _ in range(rounds):
        for preset, turns in found.items():
            command = [sys.executable, "-m", "benchmarks.presets", preset, "nano"]
            turns.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    middle = {
        preset: {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        for preset, turns in found.items()
    }
    return {
        "presets, nano": {preset: middle[preset] for preset in PRESETS},
        "fitted, nano": {preset: middle[preset] for preset in FITS},
    }


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:]) if sys.argv[2:] else fitted(sys.argv[1])))
