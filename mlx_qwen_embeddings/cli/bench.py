"""``mlx-qwen bench``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_qwen_embeddings.cli.common import ModelDirOption, ModelOption, aligned

if TYPE_CHECKING:
    from mlx_qwen_embeddings.tools.bench import BenchReport


def bench(
    *,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=0.1)] = 60,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into this .png, .svg or .pdf file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure for a minute how fast a model is here."""
    from mlx_qwen_embeddings._extras import require  # noqa: PLC0415 - as the line below
    from mlx_qwen_embeddings.tools.bench import run_bench  # noqa: PLC0415 - numpy and pydantic, which --help need not pay

    if plot is not None:
        require("matplotlib", "plot", "--plot")  # before a minute is spent
        if plot.suffix.lower() not in {".png", ".svg", ".pdf"}:
            message = f"{plot}: --plot takes a .png, .svg or .pdf file"
            raise typer.BadParameter(message)
    report = run_bench(model, seconds=seconds, cache_dir=model_dir)
    typer.echo(json.dumps(report.as_dict(), indent=2) if as_json else _table(report))
    if plot is not None:
        from mlx_qwen_embeddings.plot import plot_bench  # noqa: PLC0415 - matplotlib takes half a second

        plot_bench(report, plot)


def _table(report: "BenchReport") -> str:
    throughput = [["texts a call", "texts/s", "tokens/s"]]
    throughput += [
        [f"{row.batch_size}", f"{row.texts_per_second:,.1f}", f"{row.tokens_per_second:,.0f}"] for row in report.throughput
    ]
    latency = [["clients at once", "queries/s", "p50 ms", "p95 ms", "p99 ms"]]
    latency += [
        [f"{row.clients}", f"{row.queries_per_second:,.1f}", f"{row.p50:,.1f}", f"{row.p95:,.1f}", f"{row.p99:,.1f}"]
        for row in report.latency
    ]
    head = f"{report.model}, {report.device}, {report.dtype}: loaded in {report.load_seconds:.1f} s"
    last = f"from the cache: {report.cache_speedup:,.0f} times as fast"
    return "\n\n".join([head, aligned(throughput), aligned(latency), last])
