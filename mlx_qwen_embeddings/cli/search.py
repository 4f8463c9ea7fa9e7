"""``mlx-qwen search``."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_qwen_embeddings.cli.common import IndexedModelOption, ModelDirOption
from mlx_qwen_embeddings.cli.index import DatabaseOption

if TYPE_CHECKING:
    from mlx_qwen_embeddings.search import Hit

SHOWN_LINES = 8
"""Of a passage."""


def search(
    question: Annotated[str, typer.Argument(help="In words.", show_default=False)],
    *,
    database: DatabaseOption,
    count: Annotated[int, typer.Option("-k", help="At most so many passages.", min=1)] = 5,
    model: IndexedModelOption = None,
    model_dir: ModelDirOption = None,
    instruction: Annotated[str | None, typer.Option(help="Only to make sure that it is the database's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole passages as JSON.")] = False,
) -> None:
    """Find passages of an indexed folder by their meaning."""
    from mlx_qwen_embeddings._extras import require  # noqa: PLC0415 - as the line below

    for package in ("lancedb", "langchain_core"):
        require(package, "search", "mlx-qwen search")
    from mlx_qwen_embeddings.search import search_folder  # noqa: PLC0415 - the database takes seconds to import

    hits = search_folder(question, database, count=count, model=model, instruction=instruction, cache_dir=model_dir)
    if as_json:
        typer.echo(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False, indent=2))
    else:
        typer.echo("\n\n".join(map(_shown, hits)) or "nothing is indexed yet")


def _shown(hit: "Hit") -> str:
    lines = f"{hit.start_line}-{hit.end_line}" if hit.end_line > hit.start_line else f"{hit.start_line}"
    place = f"{_short(hit.file)}{f', page {hit.page}, line ' if hit.page else ':'}{lines}"
    passage = textwrap.dedent(" " * hit.indent + hit.text.expandtabs(4)).splitlines()
    more = ["…"] if len(passage) > SHOWN_LINES else []
    return f"{hit.score:.3f}  {place}\n" + textwrap.indent("\n".join([*passage[:SHOWN_LINES], *more]), "    ")


def _short(file: str) -> str:
    here = Path.cwd()
    return str(Path(file).relative_to(here)) if Path(file).is_relative_to(here) else file
