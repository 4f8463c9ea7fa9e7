"""What several commands share: options, and how they print."""

import functools
import inspect
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from mlx_qwen_embeddings.options import OPTIONS, Option
from mlx_qwen_embeddings.prompts import Role

Metric = Literal["cosine", "dot", "euclidean", "manhattan"]
"""Repeated here because ``similarity`` imports numpy, which would slow ``--help`` down."""

NamedModel = Annotated[str, typer.Argument(help="Alias, Hub name or local folder.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Alias, Hub name or local folder; default: MLX_QWEN_MODEL, then small."),
]
ModelDirOption = Annotated[Path | None, typer.Option(help="Folder of downloaded models; default: the Hugging Face cache.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
RoleOption = Annotated[Role, typer.Option(help="What the texts are; queries get the model's query prompt.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def with_options(*, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's ``**options`` by a flag for each option that changes vectors or refuses texts.

    The command is called with the options that differ from their defaults.

    Args:
        without: Names of options that get no flag.
    """
    chosen = [option for option in OPTIONS.values() if option.effect != "run" and option.name not in without]
    flags = {option.name: _flag(option) for option in chosen}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command(**{name: value for name, value in given.items() if name not in flags or value != flags[name].default})

        run.__signature__ = signature.replace(parameters=[*own, *flags.values()])  # type: ignore[attr-defined]
        run.__annotations__ = {flag.name: flag.annotation for flag in (*own, *flags.values())}
        return run

    return decorate


def _flag(option: Option) -> inspect.Parameter:
    kind, default, text = option.type, option.default, option.help
    if bool in get_args(kind):  # chat_template: a template's source is too long for a flag
        kind, default, text = bool, False, f"{text.partition('. ')[0]}."
    annotation = Annotated[kind, typer.Option(help=text, min=option.minimum)]  # type: ignore[valid-type] # made here
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return rows as aligned columns.

    Args:
        rows: Cells, as many in each row.
        left: Number of leading columns that hold words; the others hold numbers and are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def print_result(data: object, text: str, *, as_json: bool) -> None:
    """Print a result, either as JSON or as text."""
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2) if as_json else text)
