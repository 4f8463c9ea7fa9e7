"""What Prometheus reads: the requests, as they end, and the engines' own counters, when it asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from mlx_qwen_embeddings.compute.mlx.backend import kept_memory
from mlx_qwen_embeddings.server.middleware.limits import Traffic
from mlx_qwen_embeddings.server.models import Models

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

GAUGES = {
    "queued_requests": "Requests that wait for the model or run in it.",
    "queued_tokens": "Their tokens.",
    "cache_entries": "Vectors in the cache.",
    "cache_bytes": "Size of the cache in memory.",
    "load_seconds": "Time that loading took.",
}

MEMORY = {
    "memory_bytes": "Memory of live arrays, of all models together.",
    "peak_memory_bytes": "Highest that it was.",
    "kept_memory_bytes": "Freed buffers that MLX keeps for later, in the resident memory as well.",
}

COUNTERS = {
    "texts": "Texts asked for.",
    "tokens": "Tokens computed, padding not counted.",
    "padding_tokens": "Tokens computed only to fill rows.",
    "truncations": "Texts that were cut.",
    "duplicates": "Texts that repeated another of their request.",
    "cache_hits": "Texts that the cache served.",
    "cache_misses": "Texts that had to be computed.",
    "persistent_hits": "Those of the hits that came from the file.",
    "tokenize_seconds": "Time in the tokenizer.",
    "compute_seconds": "Time in the model.",
}


class Metrics:
    """The registry of one server."""

    def __init__(self, models: Models, traffic: Traffic) -> None:
        """Start at nothing."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "mlx_qwen_requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=self.registry
        )
        self._failures = Counter(
            "mlx_qwen_request_failures", "Requests that failed, by code.", ["code"], registry=self.registry
        )
        self._seconds = Histogram(
            "mlx_qwen_request_seconds", "Time to answer.", ["endpoint"], buckets=SECONDS, registry=self.registry
        )
        self.registry.register(Engines(models, traffic))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def ended(self, endpoint: str, status: int, code: str | None, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        if code:
            self._failures.labels(code).inc()


class Engines(Collector):
    """Reads the engines' counters when it is asked."""

    def __init__(self, models: Models, traffic: Traffic) -> None:
        """Keep where to read."""
        self._models, self._traffic = models, traffic

    def collect(self) -> Iterator[Metric]:
        """Give every metric of every engine that was opened."""
        engines = {name: (engine, engine.stats()) for name, engine in self._models.engines.items()}
        yield GaugeMetricFamily("mlx_qwen_requests_in_hand", "Requests in hand.", value=self._traffic.in_hand)
        loaded = sum(engine.loaded for engine, _ in engines.values())
        yield GaugeMetricFamily("mlx_qwen_loaded_models", "Models in memory.", value=loaded)
        # MLX counts for the whole process: each loaded model says the same, and others 0.
        live = max((stats.memory_bytes for _, stats in engines.values()), default=0)
        peak = max((stats.peak_memory_bytes for _, stats in engines.values()), default=0)
        for (name, meaning), size in zip(MEMORY.items(), (live, peak, kept_memory() if loaded else 0), strict=True):
            yield GaugeMetricFamily(f"mlx_qwen_{name}", meaning, value=size)
        for name, meaning in GAUGES.items():
            gauge = GaugeMetricFamily(f"mlx_qwen_{name}", meaning, labels=["model"])
            for model, (_, stats) in engines.items():
                gauge.add_metric([model], getattr(stats, name))
            yield gauge
        for name, meaning in COUNTERS.items():
            counter = CounterMetricFamily(f"mlx_qwen_{name}", meaning, labels=["model"])
            for model, (_, stats) in engines.items():
                counter.add_metric([model], getattr(stats, name))
            yield counter
        batches = SummaryMetricFamily("mlx_qwen_batch_texts", "Texts of a batch.", labels=["model"])
        failures = CounterMetricFamily("mlx_qwen_failures", "Texts that failed, by kind.", labels=["model", "kind"])
        for model, (_, stats) in engines.items():
            batches.add_metric([model], count_value=stats.batches, sum_value=stats.cache_misses)
            for kind, texts in stats.failures.items():
                failures.add_metric([model, kind], texts)
        yield batches
        yield failures
