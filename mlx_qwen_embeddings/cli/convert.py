"""``mlx-qwen convert``."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(help="Alias, Hub name, local folder or GGUF file.")],
    target: Annotated[Path, typer.Argument(help="A folder that is new or empty.")],
    *,
    bits: Annotated[int | None, typer.Option(help="Bits a weight: 2, 3, 4, 5, 6 or 8. Without, weights are plain.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Weights that share a scale: 32, 64 or 128.")] = None,
    mode: Annotated[str | None, typer.Option(help="How they are packed: affine, mxfp4, mxfp8 or nvfp4.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of what is not packed: float32, bfloat16 or float16; else the source's.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    report: Annotated[bool, typer.Option(help="Compare the result with its source on 500 texts.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Convert a model to MLX's form, packed or plain, and say what that costs."""
    from mlx_qwen_embeddings.tools.convert.conversion import convert as run  # noqa: PLC0415 - numpy and pydantic, which --help need not pay

    done = run(
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
    typer.echo(json.dumps(done.as_dict(), ensure_ascii=False, indent=2) if as_json else str(done))
