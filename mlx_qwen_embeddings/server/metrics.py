"""Prometheus metrics: requests, counted as they end, and the engines' own counters, read when Prometheus asks."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from mlx_qwen_embeddings.compute.mlx.backend import kept_memory
from mlx_qwen_embeddings.server.models import Models

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

GAUGES = {
    "queued_requests": "Requests that wait for the model or run in it.",
    "queued_tokens": "Tokens of those requests.",
    "cache_entries": "Vectors in the cache.",
    "cache_bytes": "Size of the cache in memory.",
    "load_seconds": "Time that loading took.",
}

MEMORY = {
    "memory_bytes": "Memory of live arrays, all models together.",
    "peak_memory_bytes": "Highest value of memory_bytes so far.",
    "kept_memory_bytes": "Freed buffers that MLX keeps for reuse; they are part of the resident memory.",
}

COUNTERS = {
    "texts": "Texts requested.",
    "tokens": "Tokens computed, without padding.",
    "padding_tokens": "Padding tokens computed.",
    "truncations": "Texts that were truncated.",
    "duplicates": "Texts that repeated another text of their request.",
    "cache_hits": "Texts served from the cache.",
    "cache_misses": "Texts that had to be computed.",
    "persistent_hits": "Cache hits that came from the file.",
    "tokenize_seconds": "Time in the tokenizer.",
    "compute_seconds": "Time in the model.",
}


class Metrics(Collector):
    """The metrics of one server; collects those of the engines whenever Prometheus asks.

    Args:
        models: Models whose engines are read.
        in_progress: Returns the number of requests in progress.
    """

    def __init__(self, models: Models, in_progress: Callable[[], int]) -> None:
        self._models, self._in_progress = models, in_progress
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "mlx_qwen_requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self._failures = Counter("mlx_qwen_request_failures", "Failed requests by error code.", ["code"], registry=registry)
        self._seconds = Histogram(
            "mlx_qwen_request_seconds", "Time to the response.", ["endpoint"], buckets=SECONDS, registry=registry
        )
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def count_request(self, endpoint: str, status: int, code: str | None, seconds: float) -> None:
        """Count a request that has ended; ``code`` is that of its error, if it failed."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        if code:
            self._failures.labels(code).inc()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of every engine that was opened."""
        engines = self._models.engines
        stats = {name: engine.stats() for name, engine in engines.items()}
        yield GaugeMetricFamily("mlx_qwen_requests_in_hand", "Requests in progress.", value=self._in_progress())
        loaded = sum(engine.loaded for engine in engines.values())
        yield GaugeMetricFamily("mlx_qwen_loaded_models", "Models in memory.", value=loaded)
        # MLX counts for the whole process: every loaded model reports the same number, and others report 0.
        live = max((each.memory_bytes for each in stats.values()), default=0)
        peak = max((each.peak_memory_bytes for each in stats.values()), default=0)
        for (name, meaning), size in zip(MEMORY.items(), (live, peak, kept_memory() if loaded else 0), strict=True):
            yield GaugeMetricFamily(f"mlx_qwen_{name}", meaning, value=size)
        for family, names in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, meaning in names.items():
                metric = family(f"mlx_qwen_{name}", meaning, labels=["model"])
                for model, each in stats.items():
                    metric.add_metric([model], getattr(each, name))
                yield metric
        batches = SummaryMetricFamily("mlx_qwen_batch_texts", "Texts per batch.", labels=["model"])
        failures = CounterMetricFamily("mlx_qwen_failures", "Texts that failed, by kind.", labels=["model", "kind"])
        for model, each in stats.items():
            batches.add_metric([model], count_value=each.batches, sum_value=each.cache_misses)
            for kind, texts in each.failures.items():
                failures.add_metric([model, kind], texts)
        yield batches
        yield failures
