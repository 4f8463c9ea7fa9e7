"""``mlx-qwen index``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mlx_qwen_embeddings.cli.common import DimensionsOption, IndexedModelOption, ModelDirOption

DatabaseOption = Annotated[Path, typer.Option("--db", help="Folder of the database.", show_default=False)]


def index(
    path: Annotated[
        Path, typer.Argument(help="A folder of code, Markdown, text and PDF, or one file.", show_default=False)
    ],
    *,
    database: DatabaseOption,
    model: IndexedModelOption = None,
    model_dir: ModelDirOption = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    instruction: Annotated[
        str | None, typer.Option(help="The task in words, written before each question; else the model's own.")
    ] = None,
    dimensions: DimensionsOption = None,
    pattern: Annotated[
        str | None, typer.Option("--glob", help="Which files below the folder; else all text, code and PDF.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many files.", min=1)] = None,
    chunk_tokens: Annotated[int, typer.Option(help="Most tokens of a passage.", min=8)] = 256,
    overlap: Annotated[int, typer.Option(help="Tokens that passages share, at most.", min=0)] = 32,
) -> None:
    """Index a folder for search; done again, it embeds only what changed."""
    # Here, since the database takes seconds to import.
    from mlx_qwen_embeddings._extras import require  # noqa: PLC0415 - as said above

    for package in ("lancedb", "langchain_core", "langchain_text_splitters", "pypdf"):
        require(package, "search", "mlx-qwen index")
    from mlx_qwen_embeddings.search import embeddings_for, index_folder  # noqa: PLC0415 - as said above

    embeddings = embeddings_for(
        database,
        model=model,
        revision=revision,
        dimensions=dimensions,
        instruction=instruction,
        cache_dir=model_dir,
        show_progress=sys.stderr.isatty(),
    )
    report = index_folder(
        path, database, embeddings=embeddings, pattern=pattern, limit=limit, chunk_tokens=chunk_tokens, overlap=overlap
    )
    for reason in report.skipped:
        typer.echo(f"mlx-qwen: left out: {reason}", err=True)
    typer.echo(
        f"{report.files:,} files, {report.changed:,} new or changed, {report.removed:,} gone; "
        f"{report.embedded:,} passages embedded, {report.passages:,} in {database}"
    )
