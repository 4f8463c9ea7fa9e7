"""``mlx-qwen index`` and ``mlx-qwen search``."""

import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.cli.common import ModelDirOption, RevisionOption, print_result
from mlx_qwen_embeddings.options import OPTIONS

if TYPE_CHECKING:
    from mlx_qwen_embeddings.search import Hit

SHOWN_LINES = 8
"""Maximum number of lines shown of a passage."""

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Alias, Hub name or folder; default: the database's, then MLX_QWEN_MODEL, then small."
    ),
]
DatabaseOption = Annotated[Path, typer.Option("--db", help="Folder of the database.", show_default=False)]


def index(
    path: Annotated[
        Path, typer.Argument(help="A folder of code, Markdown, text and PDF files, or a single file.", show_default=False)
    ],
    *,
    database: DatabaseOption,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    revision: RevisionOption = None,
    instruction: Annotated[
        str | None, typer.Option(help="Task description put before each question; default: the model's own.")
    ] = None,
    dimensions: Annotated[int | None, typer.Option(help=OPTIONS["dimensions"].help, min=1)] = None,
    pattern: Annotated[
        str | None, typer.Option("--glob", help="Which files of the folder; default: all text, code and PDF files.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of files.", min=1)] = None,
    chunk_tokens: Annotated[int, typer.Option(help="Maximum number of tokens in a passage.", min=8)] = 256,
    overlap: Annotated[int, typer.Option(help="Maximum number of tokens that neighbouring passages share.", min=0)] = 32,
) -> None:
    """Index a folder for search. Run again, it embeds only what changed."""
    for package in ("lancedb", "langchain_core", "langchain_text_splitters", "pypdf"):
        require(package, "search", "mlx-qwen index")
    from mlx_qwen_embeddings.search import embeddings_for, index_folder

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
        f"{report.files:,} files, {report.changed:,} new or changed, {report.removed:,} removed; "
        f"{report.embedded:,} passages embedded, {report.passages:,} in {database}"
    )


def search(
    question: Annotated[str, typer.Argument(help="What to look for, in words.", show_default=False)],
    *,
    database: DatabaseOption,
    count: Annotated[int, typer.Option("-k", help="Maximum number of passages.", min=1)] = 5,
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    instruction: Annotated[
        str | None, typer.Option(help="Fail unless the database was indexed with this instruction.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole passages as JSON.")] = False,
) -> None:
    """Search an indexed folder by meaning."""
    for package in ("lancedb", "langchain_core"):
        require(package, "search", "mlx-qwen search")
    from mlx_qwen_embeddings.search import search_folder

    hits = search_folder(question, database, count=count, model=model, instruction=instruction, cache_dir=model_dir)
    text = "\n\n".join(map(_shown, hits)) or "nothing is indexed yet"
    print_result([asdict(hit) for hit in hits], text, as_json=as_json)


def _shown(hit: "Hit") -> str:
    lines = f"{hit.start_line}-{hit.end_line}" if hit.end_line > hit.start_line else f"{hit.start_line}"
    file, here = Path(hit.file), Path.cwd()
    shown = file.relative_to(here) if file.is_relative_to(here) else file
    place = f"{shown}{f', page {hit.page}, line ' if hit.page else ':'}{lines}"
    passage = textwrap.dedent(" " * hit.indent + hit.text.expandtabs(4)).splitlines()
    more = ["…"] if len(passage) > SHOWN_LINES else []
    return f"{hit.score:.3f}  {place}\n" + textwrap.indent("\n".join([*passage[:SHOWN_LINES], *more]), "    ")
