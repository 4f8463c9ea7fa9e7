"""Pictures of measurements."""

from pathlib import Path

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.tools.bench import BenchReport


def plot_bench(report: BenchReport, path: Path) -> None:
    """Draw throughput by batch size beside latency by concurrency.

    Args:
        report: What was measured.
        path: A .png, .svg or .pdf file.

    Raises:
        MissingExtraError: When matplotlib is not installed.
        ValueError: For another kind of file.
    """
    # A figure of its own: pyplot would keep it, and choose a window toolkit.
    figure = require("matplotlib.figure", "plot", "A picture").Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{report.model}, {report.device}, {report.dtype}")
    sizes = [row.batch_size for row in report.throughput]
    left.plot(sizes, [row.tokens_per_second for row in report.throughput], "o-")
    left.set(xlabel="texts a call", ylabel="tokens a second", ylim=(0, None))
    clients = [row.clients for row in report.latency]
    for name in ("p50", "p95", "p99"):
        right.plot(clients, [getattr(row, name) for row in report.latency], "o-", label=name)
    right.set(xlabel="clients at once", ylabel="milliseconds a query", ylim=(0, None))
    right.legend()
    for axes, values in ((left, sizes), (right, clients)):
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(value) for value in values])
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120)
