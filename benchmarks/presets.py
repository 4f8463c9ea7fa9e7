"""What each preset is for, measured: texts a second, the wait of a query beside a long job, memory."""

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
QUERIES = 30


def measure(preset: str, model: str) -> dict[str, float]:
    """Measure one preset in this process."""
    from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings

    settings = getattr(EngineSettings, preset)(model=model, device="cpu")
    texts = [f"{text} {place}" for place, text in enumerate(documents(1000, longest=180))]
    with EmbeddingEngine(settings=settings).warmup() as engine:
        start = time.perf_counter()
        engine.embed_documents(texts[:500])
        throughput = 500 / (time.perf_counter() - start)
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
        "texts_per_second": throughput,
        "query_beside_a_job_p50": waits[len(waits) // 2],
        "query_beside_a_job_p95": waits[int(0.95 * (len(waits) - 1))],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(work: Path, rounds: int) -> dict[str, Any]:  # noqa: ARG001 - the signature of every part
    """Measure every preset on nano, each in a process of its own, and give the medians."""
    found: dict[str, list[dict[str, float]]] = {preset: [] for preset in PRESETS}
    for _ in range(rounds):
        for preset in PRESETS:
            command = [sys.executable, "-m", "benchmarks.presets", preset, "nano"]
            found[preset].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    middle = {
        preset: {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        for preset, turns in found.items()
    }
    return {"presets, nano": middle}


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:3])))
