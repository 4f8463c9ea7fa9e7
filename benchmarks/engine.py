"""Measure what surrounds the model: the cache, the adapters, a fresh process."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.small import minilm
from benchmarks.texts import queries


def seconds(call: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cache_lookups() -> dict[str, float]:
    """Look up cached vectors of 1,024 dimensions by the keys that the engine derives from texts."""
    from mlx_qwen_embeddings.cache.memory import CacheKeys, MemoryCache

    keys = CacheKeys(model="m", dtype="float32", pooling="last", prompt="", chat_template=None, max_length=8192)
    cache, texts = MemoryCache(2**30), queries(20_000)
    texts = [f"{place} {text}" for place, text in enumerate(texts)]
    cache.put_many((keys(text), np.ones(1024, np.float32), 5) for text in texts)
    bare = statistics.median(seconds(lambda: cache.get_many([keys(text) for text in texts])) for _ in range(5))
    return {"lookups_per_second": len(texts) / bare}


def adapters(rounds: int) -> dict[str, Any]:
    """Embed 1,000 short texts on nano through the engine and both adapters in turn, without a cache."""
    from mlx_qwen_embeddings import get_engine
    from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
    from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding

    engine = get_engine("nano", cache_bytes=0).warmup()
    chain, index = MLXQwenEmbeddings(model="nano"), MLXQwenEmbedding(model_name="nano")
    texts = [f"{text} {place}" for place, text in enumerate(queries(1000))]
    calls: dict[str, Callable[[], Any]] = {
        "engine": lambda: engine.embed_documents(texts),
        "langchain": lambda: chain.embed_documents(texts),
        "llama_index": lambda: index.get_text_embedding_batch(texts),
    }
    for call in calls.values():
        call()
    taken = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    return {
        name: {
            "seconds": statistics.median(turn[name] for turn in taken),
            "over the engine": statistics.median(turn[name] / turn["engine"] for turn in taken) - 1,
        }
        for name in calls
    }


def fresh_process(rounds: int) -> dict[str, float]:
    """Measure an import, a first vector and the command line, each in a new interpreter. Return medians in seconds."""
    vector = "import mlx_qwen_embeddings as m; m.EmbeddingEngine({!r}).embed_query('hello')"
    peer = f"import sentence_transformers as s; s.SentenceTransformer({minilm()!r}, device='cpu').encode('hello')"
    cases = {
        "interpreter": ("-c", "pass"),
        "import": ("-c", "import mlx_qwen_embeddings"),
        "first vector of nano": ("-c", vector.format("nano")),
        "first vector of all-MiniLM": ("-c", vector.format(minilm())),
        "first vector of all-MiniLM on sentence-transformers": ("-c", peer),
        "mlx-qwen --help": ("-m", "mlx_qwen_embeddings", "--help"),
        "mlx-qwen embed on nano": ("-m", "mlx_qwen_embeddings", "embed", "--model", "nano", "hello"),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, arguments in cases.items():
            command = [sys.executable, *arguments]
            taken[name].append(seconds(partial(subprocess.run, command, check=True, capture_output=True)))
    base = statistics.median(taken["interpreter"])
    return {name: statistics.median(times) - (base if name == "import" else 0) for name, times in taken.items()}


def run(work: Path, rounds: int) -> dict[str, Any]:  # noqa: ARG001 - the signature of every part
    """Run all cases, and return the results by case."""
    return {
        "memory cache": cache_lookups(),
        "adapters": adapters(rounds * 3),
        "fresh process": fresh_process(rounds * 2 + 1),
    }
