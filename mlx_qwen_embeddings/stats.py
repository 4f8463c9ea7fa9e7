"""Counters of an engine."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mlx_qwen_embeddings._files import human_size
from mlx_qwen_embeddings._fork import ForkSafeLock
from mlx_qwen_embeddings._html import NotebookTable, Table


@dataclass(frozen=True, slots=True)
class EngineStats(NotebookTable):
    """What an engine has done since it was opened.

    Attributes:
        texts: Texts asked for, including cached and repeated ones.
        tokens: Tokens computed, without padding.
        padding_tokens: Padding computed beside them.
        batches: Batches run.
        duplicates: Texts that repeated another text of the same call.
        truncations: Texts that were cut at ``max_length``.
        cache_hits: Texts served from the cache.
        cache_misses: Texts that had to be computed.
        persistent_hits: Cache hits that came from the file at ``cache_path``.
        cache_entries: Vectors in the cache now.
        cache_bytes: Size of the cache now, in bytes.
        tokenize_seconds: Time in the tokenizer, summed over callers.
        compute_seconds: Time in the encoder.
        load_seconds: Time to load the model; 0 while it is not loaded.
        queued_requests: Requests queued or being computed now.
        queued_tokens: Tokens of these requests.
        memory_bytes: Memory of live arrays, in bytes.
        peak_memory_bytes: Highest value so far, in bytes.
        failures: Number of failed texts, by the error's name.
    """

    texts: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    batches: int = 0
    duplicates: int = 0
    truncations: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    persistent_hits: int = 0
    cache_entries: int = 0
    cache_bytes: int = 0
    tokenize_seconds: float = 0.0
    compute_seconds: float = 0.0
    load_seconds: float = 0.0
    queued_requests: int = 0
    queued_tokens: int = 0
    memory_bytes: int = 0
    peak_memory_bytes: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def padding_share(self) -> float:
        """Padding as a share of all computed tokens, 0 to 1."""
        computed = self.tokens + self.padding_tokens
        return self.padding_tokens / computed if computed else 0.0

    def _table(self) -> Table:
        persistent = f", {self.persistent_hits:,} of them from the file" if self.persistent_hits else ""
        facts = {
            "texts": self.texts,
            "from the cache": f"{self.cache_hits:,}{persistent}",
            "computed": f"{self.cache_misses:,} texts, {self.tokens:,} tokens in {self.batches:,} batches",
            "padding": f"{self.padding_share:.1%}",
            "cut": self.truncations,
            "time": f"{self.compute_seconds:.2f} s in the model, {self.tokenize_seconds:.2f} s in the tokenizer",
            "cache": f"{self.cache_entries:,} vectors, {human_size(self.cache_bytes)}",
            "memory": f"{human_size(self.memory_bytes)}, at most {human_size(self.peak_memory_bytes)}",
        }
        failures = {"failed": ", ".join(f"{name}: {count:,}" for name, count in self.failures.items())}
        return "What the engine has done", facts | (failures if self.failures else {})


class StatsCounter:
    """Adds up counts. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._counts: Counter[str] = Counter()
        self._seconds: dict[str, Any] = {}
        self._failures: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        """Add to integer fields of ``EngineStats``."""
        with self._lock:
            self._counts.update(counts)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to a field of ``EngineStats`` in seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def failed(self, error: BaseException, texts: int = 1) -> None:
        """Count failed texts under the error's name."""
        with self._lock:
            self._failures[type(error).__name__] += texts

    def snapshot(self, **now: Any) -> EngineStats:
        """Return the counts so far, together with fields that are measured at this moment."""
        with self._lock:
            return EngineStats(**self._counts, **self._seconds, failures=dict(self._failures), **now)
