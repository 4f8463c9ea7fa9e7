"""``mlx-qwen bulk``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from mlx_qwen_embeddings.cli.common import (
    ModelDirOption,
    ModelOption,
    RestartOption,
    RoleOption,
    VectorColumnOption,
    from_earlier,
    resumable,
    with_options,
)
from mlx_qwen_embeddings.options import CallOptions

if TYPE_CHECKING:
    from mlx_qwen_embeddings.bulk.corpus import Runner


@with_options()
def bulk(
    source: Annotated[Path, typer.Argument(help="A Parquet file, or a folder of them.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the output: a new one, or that of an earlier run.")],
    *,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Run on this Ray cluster: host:port of its head node, auto for the one running on this machine, local "
            "to start one here; default: run in this process."
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Number of engines on the cluster; default: as many as fit.", min=1)
    ] = None,
    num_cpus: Annotated[
        float | None,
        typer.Option(help="CPUs per engine; default: all but one of the smallest node's. 0 only with GPUs.", min=0),
    ] = None,
    num_gpus: Annotated[float | None, typer.Option(help="GPUs per engine; default: 1 where there are any.", min=0)] = None,
    column: Annotated[str, typer.Option(help="Column that holds the texts.")] = "text",
    vector_column: VectorColumnOption = "embedding",
    part_rows: Annotated[int, typer.Option(help="Rows per part; losing a machine costs one part.", min=1)] = 1024,
    restart: RestartOption = False,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    role: RoleOption = "document",
    **options: Unpack[CallOptions],
) -> None:
    """Embed Parquet files, here or on a Ray cluster. To continue a stopped run, repeat the command."""
    job: dict[str, Any] = {
        "role": role,
        "column": column,
        "vector_column": vector_column,
        "part_rows": part_rows,
        "restart": restart,
        **options,
    }
    placement = {"concurrency": concurrency, "num_cpus": num_cpus, "num_gpus": num_gpus}
    if ray is not None:
        _run(source, folder, {**job, "runner": _cluster(ray, model, model_dir, placement)})
        return
    if any(value is not None for value in placement.values()):
        raise typer.BadParameter("--concurrency, --num-cpus and --num-gpus are for a cluster: give --ray, too")
    from mlx_qwen_embeddings.engine import EmbeddingEngine

    with EmbeddingEngine(model, cache_dir=model_dir) as engine:
        _run(source, folder, {**job, "model": engine})


def _cluster(address: str, model: str | None, model_dir: Path | None, placement: dict[str, Any]) -> "Runner":
    from mlx_qwen_embeddings.ray import Placement, RayRunner

    settings = {} if model_dir is None else {"cache_dir": model_dir}
    return RayRunner(address, model=model, placement=Placement(**placement), settings=settings)


def _run(source: Path, folder: Path, job: dict[str, Any]) -> None:
    from mlx_qwen_embeddings.bulk import embed_parquet

    with resumable(folder):
        report = embed_parquet(source, folder, show_progress=sys.stderr.isatty(), **job)
    parts = f"{report.parts:,} part{'' if report.parts == 1 else 's'}"
    earlier = from_earlier(report.resumed)
    typer.echo(f"{folder}: {report.rows:,} vectors of {report.dimensions:,} dimensions in {parts}{earlier}")
