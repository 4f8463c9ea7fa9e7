"""``mlx-qwen embed``, ``bulk`` and ``compare``: compute vectors, and print them, store them or compare them."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

import typer

from mlx_qwen_embeddings.cli.common import (
    JsonOption,
    Metric,
    ModelDirOption,
    ModelOption,
    RoleOption,
    aligned,
    print_result,
    with_options,
)
from mlx_qwen_embeddings.options import CallOptions

if TYPE_CHECKING:
    from mlx_qwen_embeddings.bulk import BulkReport, CorpusReport
    from mlx_qwen_embeddings.bulk.sources import Source
    from mlx_qwen_embeddings.engine import EmbeddingEngine

InputFormat = Literal["lines", "jsonl", "csv", "tsv", "parquet"]
STDIN = Path("-")

BAR_FROM = 100
"""Number of texts from which a progress bar is shown."""

SHOWN_VALUES = 10
SHOWN_CHARACTERS = {"embed": 70, "compare": 40}

ColumnOption = Annotated[str, typer.Option(help="Column that holds the texts.")]
VectorColumnOption = Annotated[str, typer.Option(help="Name of the vector column in the output.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Discard what an earlier run has done.")]


@with_options()
def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to embed, one per argument.")] = None,
    *,
    rows: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="File of rows: JSON Lines, CSV, Parquet, or one text per line; - for stdin."),
    ] = None,
    input_format: Annotated[
        InputFormat | None, typer.Option(help="Format of the rows; default: by the file's suffix.")
    ] = None,
    column: ColumnOption = "text",
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="File that is embedded as one text; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .jsonl, .json, .npy or .parquet file; default: print.")
    ] = None,
    form: Annotated[
        Literal["short", "json", "jsonl"], typer.Option("--format", help="How to print: a short view, or all values.")
    ] = "short",
    vector_column: VectorColumnOption = "embedding",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    restart: RestartOption = False,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    role: RoleOption = "document",
    **options: Unpack[CallOptions],
) -> None:
    """Embed texts, files, or a column of a table. To continue a stopped run into a file, repeat the command."""
    from mlx_qwen_embeddings.bulk import embed_file
    from mlx_qwen_embeddings.engine import EmbeddingEngine
    from mlx_qwen_embeddings.options import EmbedOptions

    opened = _open_texts(texts or (), files or (), rows, column, input_format)
    with opened as source, EmbeddingEngine(model, cache_dir=model_dir) as engine:
        if output is None:
            blocks = _blocks(source, engine, role, EmbedOptions(**options))
            for line in _printed(source, blocks, form, vector_column):
                sys.stdout.write(line)
            return
        options["show_progress"] = sys.stderr.isatty()
        keep: Any = {"vector_column": vector_column, "overwrite": overwrite, "restart": restart}
        with _resumable(output):
            report = embed_file(source, output, model=engine, role=role, **keep, **options)
    _print_report(output, report)


@contextmanager
def _open_texts(
    texts: Sequence[str], files: Sequence[Path], rows: Path | None, column: str, form: InputFormat | None
) -> Iterator["Source"]:
    """Open the one place that texts were given in, or standard input where none was."""
    from mlx_qwen_embeddings.bulk.sources import MemorySource, open_source

    given = [name for name, value in (("texts", texts), ("--file", files), ("--input", rows)) if value]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} are given: choose one")
    if not given and sys.stdin.isatty():
        raise typer.BadParameter("nothing to embed: give texts, --file, --input, or a pipe")
    suffix = form and f".{form}"
    if texts:
        yield MemorySource([{column: text} for text in texts], column=column)
    elif files:
        yield MemorySource([{"file": str(path), column: _whole(path)} for path in files], column=column)
    elif rows is not None and rows != STDIN:
        yield open_source(rows, column, suffix)
    else:
        # Rows are read several times: to count them, to embed them, and to write them beside their vectors.
        with tempfile.TemporaryDirectory(prefix="mlx-qwen-") as folder:
            path = Path(folder, "stdin")
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            source = open_source(path, column, suffix)
            source.name = "standard input"
            yield source


def _whole(path: Path) -> str:
    try:
        return (sys.stdin.buffer.read() if path == STDIN else path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it") from error


def _blocks(source: "Source", engine: "EmbeddingEngine", role: Any, options: Any) -> Iterator[Any]:
    from mlx_qwen_embeddings.bulk.file import PART_ROWS
    from mlx_qwen_embeddings.bulk.job import embed_blocks, progress_bar

    count = sum(1 for _ in source.texts())
    with progress_bar(count, 0, show=sys.stderr.isatty() and count >= BAR_FROM) as shown:
        for block in embed_blocks(engine, source.texts(), PART_ROWS, role, options):
            yield block
            shown.update(len(block))


def _printed(source: "Source", blocks: Iterator[Any], form: str, column: str) -> Iterator[str]:
    from mlx_qwen_embeddings.bulk.targets import columns_of, joined, records_with

    vectors = (vector for block in blocks for vector in block)
    if form == "short":
        for text, vector in zip(source.texts(), vectors, strict=True):
            yield f"{_shortened(text, SHOWN_CHARACTERS['embed'])}\n  {_short(vector)}\n"
    else:
        columns_of(source, form, column)  # type: ignore[arg-type]
        yield from joined(records_with(source.records(), vectors, column), form)  # type: ignore[arg-type]


def _shortened(text: str, characters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"


def _short(vector: Any) -> str:
    import numpy as np

    if vector.dtype.kind == "f":
        size = f"{len(vector)} dimensions, norm {np.linalg.norm(vector.astype(np.float64)):.4f}"
        values = [f"{value:.4f}" for value in vector[:SHOWN_VALUES].tolist()]
    else:
        size, values = f"{len(vector)} bytes, {vector.dtype}", [str(value) for value in vector[:SHOWN_VALUES].tolist()]
    more = ["…"] if len(vector) > SHOWN_VALUES else []
    return f"{size}\n  {'  '.join([*values, *more])}"


@contextmanager
def _resumable(output: Path) -> Iterator[None]:
    """Exit on Ctrl-C with a message that says how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"mlx-qwen: stopped; run the same command again to continue {output}", err=True)
        raise typer.Exit(130) from None


def _print_report(output: Path, report: "BulkReport | CorpusReport", parts: str = "") -> None:
    earlier = f", {report.resumed:,} of them from an earlier run" if report.resumed else ""
    typer.echo(f"{output}: {report.rows:,} vectors of {report.dimensions:,} dimensions{parts}{earlier}")


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
    column: ColumnOption = "text",
    vector_column: VectorColumnOption = "embedding",
    part_rows: Annotated[int, typer.Option(help="Rows per part; losing a machine costs one part.", min=1)] = 1024,
    restart: RestartOption = False,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    role: RoleOption = "document",
    **options: Unpack[CallOptions],
) -> None:
    """Embed Parquet files, here or on a Ray cluster. To continue a stopped run, repeat the command."""
    from mlx_qwen_embeddings.bulk import embed_parquet
    from mlx_qwen_embeddings.engine import EmbeddingEngine

    placement: dict[str, Any] = {"concurrency": concurrency, "num_cpus": num_cpus, "num_gpus": num_gpus}
    runner: Any = None
    if ray is not None:
        from mlx_qwen_embeddings.ray import Placement, RayRunner

        settings = {"cache_dir": model_dir}
        runner = RayRunner(ray, model=model, placement=Placement(**placement), settings=settings)
    elif any(value is not None for value in placement.values()):
        raise typer.BadParameter("--concurrency, --num-cpus and --num-gpus are for a cluster: give --ray, too")
    options["show_progress"] = sys.stderr.isatty()
    keep: Any = {"column": column, "vector_column": vector_column, "part_rows": part_rows, "restart": restart}
    opened: Any = EmbeddingEngine(model, cache_dir=model_dir) if runner is None else nullcontext()
    with opened as engine, _resumable(folder):
        report = embed_parquet(source, folder, model=engine, runner=runner, role=role, **keep, **options)
    _print_report(folder, report, f" in {report.parts:,} part{'' if report.parts == 1 else 's'}")


@with_options(without={"precision"})
def compare(
    texts: Annotated[list[str], typer.Argument(help="Two or more texts.")],
    *,
    metric: Annotated[Metric, typer.Option(help="Similarity (cosine, dot) or distance (euclidean, manhattan).")] = "cosine",
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    role: RoleOption = "document",
    as_json: JsonOption = False,
    **options: Unpack[CallOptions],
) -> None:
    """Compare texts with each other."""
    if len(texts) < 2:  # noqa: PLR2004 - a single text has nothing to be compared with
        raise typer.BadParameter("compare needs at least two texts")
    from mlx_qwen_embeddings.engine import EmbeddingEngine
    from mlx_qwen_embeddings.similarity import METRICS

    with EmbeddingEngine(model, cache_dir=model_dir) as engine:
        vectors = (engine.embed_queries if role == "query" else engine.embed_documents)(texts, **options)
    scores = METRICS[metric](vectors, vectors).tolist()
    rows = [["", *(f"{number}" for number in range(1, len(texts) + 1))]]
    for number, (text, row) in enumerate(zip(texts, scores, strict=True), 1):
        rows.append([f"{number} {_shortened(text, SHOWN_CHARACTERS['compare'])}", *(f"{value:.4f}" for value in row)])
    rounded = [[round(value, 6) for value in row] for row in scores]
    print_result({"metric": metric, "texts": texts, "scores": rounded}, aligned(rows), as_json=as_json)
