"""``mlx-qwen bulk``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_qwen_embeddings.cli.common import (
    DimensionsOption,
    InstructionOption,
    MaxLengthOption,
    ModelDirOption,
    ModelOption,
    Pooling,
    Precision,
    RoleOption,
    Truncate,
    from_earlier,
    resumable,
)

if TYPE_CHECKING:
    from mlx_qwen_embeddings.bulk.whole_corpus import Runner


def bulk(
    source: Annotated[Path, typer.Argument(help="A Parquet file, or a folder of them.")],
    folder: Annotated[Path, typer.Argument(help="Where the parts go: a new folder, or that of an earlier run.")],
    *,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Compute on this Ray cluster: host:port of its head node, auto for the one that runs on this machine, "
            "local to start one of this machine alone; without it, compute in this process."
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Engines on the cluster; else as many as it has room for.", min=1)
    ] = None,
    num_cpus: Annotated[
        float | None, typer.Option(help="CPUs of each; else all but one of the smallest node's. 0 only with GPUs.", min=0)
    ] = None,
    num_gpus: Annotated[float | None, typer.Option(help="GPUs of each; else 1 where there are any.", min=0)] = None,
    column: Annotated[str, typer.Option(help="Which column holds the texts.")] = "text",
    vector_column: Annotated[str, typer.Option(help="Name of the vectors in the output.")] = "embedding",
    part_rows: Annotated[int, typer.Option(help="Rows a part, which is what the loss of a machine costs.", min=1)] = 1024,
    restart: Annotated[bool, typer.Option("--restart", help="Drop what an earlier run has done.")] = False,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    role: RoleOption = "document",
    instruction: InstructionOption = None,
    dimensions: DimensionsOption = None,
    normalize: Annotated[bool, typer.Option(help="Give vectors of unit length.")] = True,
    pooling: Annotated[Pooling, typer.Option(help="How token states become a vector.")] = "native",
    max_length: MaxLengthOption = None,
    truncate: Annotated[Truncate, typer.Option(help="Cut longer texts at their end, or refuse them.")] = "end",
    precision: Annotated[Precision, typer.Option(help="Type of the vectors' components.")] = "float32",
) -> None:
    """Embed Parquet files into a folder of them, here or on a Ray cluster. A run that was stopped goes on likewise."""
    options: Any = {
        "instruction": instruction,
        "dimensions": dimensions,
        "normalize": normalize,
        "pooling": pooling,
        "max_length": max_length,
        "truncate": truncate,
        "precision": precision,
    }
    keep: Any = {"role": role, "column": column, "vector_column": vector_column, "part_rows": part_rows}
    places = {"concurrency": concurrency, "num_cpus": num_cpus, "num_gpus": num_gpus}
    if ray is None:
        if any(given is not None for given in places.values()):
            message = "--concurrency, --num-cpus and --num-gpus are for a cluster: give --ray, too"
            raise typer.BadParameter(message)
        _here(source, folder, model, model_dir, {**keep, **options, "restart": restart})
        return
    runner = _cluster(ray, model, model_dir, places)
    _run(source, folder, {**keep, **options, "restart": restart, "runner": runner})


def _here(source: Path, folder: Path, model: str | None, model_dir: Path | None, options: dict[str, Any]) -> None:
    from mlx_qwen_embeddings.engine import EmbeddingEngine  # noqa: PLC0415 - numpy and pydantic, which --help need not pay

    with EmbeddingEngine(model, cache_dir=model_dir) as engine:
        _run(source, folder, {**options, "model": engine})


def _cluster(address: str, model: str | None, model_dir: Path | None, places: dict[str, Any]) -> "Runner":
    from mlx_qwen_embeddings.ray import Placement, RayRunner  # noqa: PLC0415 - Ray takes seconds

    settings = {} if model_dir is None else {"cache_dir": model_dir}
    return RayRunner(address, model=model, placement=Placement(**places), settings=settings)


def _run(source: Path, folder: Path, options: dict[str, Any]) -> None:
    from mlx_qwen_embeddings.bulk import embed_parquet  # noqa: PLC0415 - as above

    with resumable(folder):
        report = embed_parquet(source, folder, show_progress=sys.stderr.isatty(), **options)
    parts = f"{report.parts:,} part{'' if report.parts == 1 else 's'}"
    earlier = from_earlier(report.resumed)
    typer.echo(f"{folder}: {report.rows:,} vectors of {report.dimensions:,} dimensions in {parts}{earlier}")
