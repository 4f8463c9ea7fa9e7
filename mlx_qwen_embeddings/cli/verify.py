"""``mlx-qwen verify``."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_qwen_embeddings.cli.common import ModelDirOption

if TYPE_CHECKING:
    from mlx_qwen_embeddings.tools.verify.verification import VerifyReport


def verify(
    model: Annotated[str, typer.Argument(help="Alias, Hub name or local folder.")],
    *,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    model_dir: ModelDirOption = None,
    dtype: Annotated[str | None, typer.Option(help="Compute type: auto, float32 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: auto, cpu or gpu.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a model's files and vectors, and say how to mend what is wrong."""
    from mlx_qwen_embeddings.tools.verify.verification import verify as check  # noqa: PLC0415 - numpy and pydantic, which --help need not pay

    report = check(model, revision=revision, dtype=dtype, device=device, cache_dir=model_dir)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    elif sys.stdout.isatty():
        _print_table(report)
    else:
        typer.echo(str(report))
    raise typer.Exit(0 if report.ok else 1)


def _print_table(report: "VerifyReport") -> None:
    from rich.console import Console  # noqa: PLC0415 - only a terminal shows it
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table("", "check", "expected", "found", title=escape(report.heading), title_justify="left")
    for row in report.rows:
        mark = "[green]✓[/]" if row.ok else "[red]✗[/]"
        table.add_row(mark, *map(escape, (row.name, row.expected, row.found)), style=None if row.ok else "bold")
    console = Console()
    console.print(table)
    for row in report.failures:
        console.print(f"[red]{escape(row.name)}[/]: {escape(row.remedy)}", highlight=False)
