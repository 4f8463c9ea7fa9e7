"""Draw the speed of a model, as `mlx-qwen bench` measures it."""

from pathlib import Path

from mlx_qwen_embeddings.plot.style import Picture, looks
from mlx_qwen_embeddings.tools.bench import BenchReport


def plot_bench(report: BenchReport, path: Path) -> None:
    """Save a picture of throughput by batch size, and of latency by concurrency.

    Args:
        report: The measurements.
        path: A .png, .svg or .pdf file.

    Raises:
        ValueError: For any other type of file.
    """
    figure = Picture(10, 4)
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{report.model}, {report.device}, {report.dtype}")
    sizes = [row.batch_size for row in report.throughput]
    (color, marker), *_ = looks(1)
    left.plot(sizes, [row.tokens_per_second for row in report.throughput], color=color, marker=marker)
    left.set(xlabel="texts per call", ylabel="tokens per second", ylim=(0, None))
    clients = [row.clients for row in report.latency]
    for name, (color, marker) in zip(("p50", "p95", "p99"), looks(3), strict=True):
        right.plot(clients, [getattr(row, name) for row in report.latency], color=color, marker=marker, label=name)
    right.set(xlabel="concurrent clients", ylabel="milliseconds per query", ylim=(0, None))
    right.legend()
    for axes, values in ((left, sizes), (right, clients)):
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(value) for value in values])
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120)
