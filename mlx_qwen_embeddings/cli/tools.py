"""``mlx-qwen verify``, ``evaluate``, ``convert``, ``bench`` and ``doctor``: check, convert and measure models."""

import platform
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from mlx_qwen_embeddings._files import human_size
from mlx_qwen_embeddings.cli.common import (
    JsonOption,
    ModelDirOption,
    ModelOption,
    NamedModel,
    RevisionOption,
    aligned,
    print_result,
    with_options,
)
from mlx_qwen_embeddings.options import CallOptions

if TYPE_CHECKING:
    from mlx_qwen_embeddings.tools.bench import BenchReport

EXTRAS = {
    "langchain": "langchain-core",
    "llama-index": "llama-index-core",
    "chat-template": "jinja2",
    "convert": "mlx-lm",
    "parquet": "pyarrow",
    "plot": "matplotlib",
    "search": "lancedb",
    "server": "fastapi",
}
"""Extras that ``doctor`` reports, each with the package that shows whether it is installed."""


def verify(
    model: NamedModel,
    *,
    revision: RevisionOption = None,
    model_dir: ModelDirOption = None,
    dtype: Annotated[str | None, typer.Option(help="Compute type: auto, float32 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: auto, cpu or gpu.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a model's files and vectors, and say how to fix what is wrong."""
    from mlx_qwen_embeddings.tools.verify import verify as run

    report = run(model, revision=revision, dtype=dtype, device=device, cache_dir=model_dir)
    print_result(report.as_dict(), str(report), as_json=as_json)
    raise typer.Exit(0 if report.ok else 1)


@with_options(without={"normalize", "precision"})
def evaluate(
    model: NamedModel,
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Retrieval sets: folders with corpus.jsonl, queries.jsonl and qrels.tsv.")
    ] = None,
    *,
    sts: Annotated[
        list[Path] | None, typer.Option(help="Scored pairs: a file with score, sentence and sentence, tab-separated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of queries or pairs of each set.", min=1)] = None,
    as_json: JsonOption = False,
    **options: Unpack[CallOptions],
) -> None:
    """Measure nDCG@10 on retrieval sets and Spearman's correlation on scored pairs."""
    if not folders and not sts:
        raise typer.BadParameter("nothing to measure: name a folder, or a file with --sts")
    from mlx_qwen_embeddings.engine import EmbeddingEngine
    from mlx_qwen_embeddings.tools.evaluate import evaluate_pairs, evaluate_retrieval

    options["show_progress"] = sys.stderr.isatty() and not as_json
    runs = [(evaluate_retrieval, path) for path in folders or ()] + [(evaluate_pairs, path) for path in sts or ()]
    with EmbeddingEngine(model) as engine:
        scores = [run(engine, path, limit=limit, **options) for run, path in runs]
    rows = [["set", "figure", "score", "queries", "documents", "seconds"]]
    for score in scores:
        documents = f"{score.documents:,}" if score.documents else ""
        numbers = [f"{score.value:.3f}", f"{score.queries:,}", documents, f"{score.seconds:.0f}"]
        rows.append([score.data, score.figure, *numbers])
    print_result([asdict(score) for score in scores], aligned(rows, left=2), as_json=as_json)


def convert(
    source: Annotated[str, typer.Argument(help="Alias, Hub name, local folder or GGUF file.")],
    target: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    *,
    bits: Annotated[int | None, typer.Option(help="Bits per weight: 2, 3, 4, 5, 6 or 8; default: do not quantise.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Weights that share a scale: 32, 64 or 128.")] = None,
    mode: Annotated[str | None, typer.Option(help="Quantisation mode: affine, mxfp4, mxfp8 or nvfp4.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of all other weights: float32, bfloat16 or float16; default: the source's.")
    ] = None,
    revision: RevisionOption = None,
    report: Annotated[bool, typer.Option(help="Compare the result with its source on 500 texts.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Convert a model to MLX's format, quantised or not, and measure what that costs."""
    from mlx_qwen_embeddings.tools.convert import convert as run

    conversion = run(
        source,
        target,
        bits=bits,
        group_size=group_size,
        mode=mode,
        dtype=dtype,
        revision=revision,
        report=report,
        show_progress=sys.stderr.isatty() and not as_json,
    )
    print_result(conversion.as_dict(), str(conversion), as_json=as_json)


def bench(
    *,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=0.1)] = 60,
    plot: Annotated[Path | None, typer.Option(help="Draw the results into this .png, .svg or .pdf file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast a model is on this machine."""
    from mlx_qwen_embeddings._extras import require
    from mlx_qwen_embeddings.tools.bench import run_bench

    if plot is not None:
        require("matplotlib", "plot", "--plot")  # before a minute is spent
        if plot.suffix.lower() not in {".png", ".svg", ".pdf"}:
            raise typer.BadParameter(f"{plot}: --plot takes a .png, .svg or .pdf file")
    report = run_bench(model, seconds=seconds, cache_dir=model_dir)
    print_result(asdict(report), _bench_tables(report), as_json=as_json)
    if plot is not None:
        from mlx_qwen_embeddings.plot import plot_bench

        plot_bench(report, plot)


def _bench_tables(report: "BenchReport") -> str:
    throughput = [
        [f"{row.batch_size}", f"{row.texts_per_second:,.1f}", f"{row.tokens_per_second:,.0f}"] for row in report.throughput
    ]
    latency = [
        [f"{row.clients}", f"{row.queries_per_second:,.1f}", f"{row.p50:,.1f}", f"{row.p95:,.1f}", f"{row.p99:,.1f}"]
        for row in report.latency
    ]
    return "\n\n".join(
        [
            f"{report.model}, {report.device}, {report.dtype}: loaded in {report.load_seconds:.1f} s",
            aligned([["texts per call", "texts/s", "tokens/s"], *throughput]),
            aligned([["clients", "queries/s", "p50 ms", "p95 ms", "p99 ms"], *latency]),
            f"from the cache: {report.cache_speedup:,.0f} times as fast",
        ]
    )


def doctor(*, as_json: JsonOption = False) -> None:
    """Show device, type and BLAS in use, and measure them for a second."""
    facts = {"package": _version("mlx-qwen-embeddings"), "python": sys.version.split()[0], "system": platform.platform()}
    facts |= _computing() | _storage() | {f"extra {extra}": _version(name) for extra, name in EXTRAS.items()}
    rows = [[name, "none" if value is None else f"{value}"] for name, value in facts.items()]
    print_result(facts, aligned(rows, left=2), as_json=as_json)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _computing() -> dict[str, Any]:
    from mlx_qwen_embeddings.compute.mlx.backend import choose_backend, measure
    from mlx_qwen_embeddings.compute.mlx.blas import cores

    backend = choose_backend()
    gflops, bandwidth = measure(backend)
    return {
        "mlx": _version("mlx"),
        "device": backend.device,
        "cores": cores(),
        "dtype": backend.dtype,
        "BLAS": backend.blas or ("the one that MLX is linked with" if backend.device == "cpu" else "not used on a GPU"),
        "matrix products": f"{gflops:.0f} GFLOP/s",
        "memory reads": f"{bandwidth:.0f} GB/s",
    }


def _storage() -> dict[str, Any]:
    from mlx_qwen_embeddings.checkpoint.hub import cache_state
    from mlx_qwen_embeddings.compute.memory import available_memory
    from mlx_qwen_embeddings.settings import EngineSettings

    settings = EngineSettings.from_env()
    folder, offline = cache_state(settings.cache_dir, offline=settings.offline)
    available = available_memory()
    return {
        "free memory": None if available is None else human_size(available),
        "default model": settings.model,
        "downloaded models": str(folder),
        "offline": offline,
        "persistent cache": None if settings.cache_path is None else str(settings.cache_path),
    }
