"""``mlx-qwen compare``."""

import json
import sys
from typing import Annotated, Any

import typer

from mlx_qwen_embeddings.cli.common import (
    DimensionsOption,
    InstructionOption,
    MaxLengthOption,
    Metric,
    ModelDirOption,
    ModelOption,
    RoleOption,
    aligned,
)

SHOWN_CHARACTERS = 40


def compare(
    texts: Annotated[list[str], typer.Argument(help="Two texts or more.")],
    *,
    metric: Annotated[Metric, typer.Option(help="Similarity (cosine, dot) or distance (the others).")] = "cosine",
    model: ModelOption = None,
    model_dir: ModelDirOption = None,
    role: RoleOption = "document",
    instruction: InstructionOption = None,
    dimensions: DimensionsOption = None,
    max_length: MaxLengthOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the matrix as JSON.")] = False,
) -> None:
    """Compare texts with each other."""
    if len(texts) < 2:  # noqa: PLR2004 - one has nothing to be compared with
        message = "compare needs two texts or more"
        raise typer.BadParameter(message)
    from mlx_qwen_embeddings.engine import EmbeddingEngine  # noqa: PLC0415 - numpy and pydantic, which --help need not pay
    from mlx_qwen_embeddings.options import CallOptions  # noqa: PLC0415 - as above
    from mlx_qwen_embeddings.similarity import METRICS  # noqa: PLC0415 - as above

    options = CallOptions(instruction=instruction, dimensions=dimensions, max_length=max_length)
    with EmbeddingEngine(model, cache_dir=model_dir) as engine:
        vectors = (engine.embed_queries if role == "query" else engine.embed_documents)(texts, **options)
    scores = METRICS[metric](vectors, vectors)
    if as_json:
        rounded = [[round(value, 6) for value in row] for row in scores.tolist()]
        typer.echo(json.dumps({"metric": metric, "texts": texts, "scores": rounded}, ensure_ascii=False, indent=2))
    elif sys.stdout.isatty():
        _print_table(texts, scores, metric)
    else:
        typer.echo(_plain(texts, scores))


def _plain(texts: list[str], scores: Any) -> str:
    names = _names(texts)
    rows = [["", *(f"{number}" for number in range(1, len(texts) + 1))]]
    rows += [[name, *(f"{value:.4f}" for value in row)] for name, row in zip(names, scores.tolist(), strict=True)]
    return aligned(rows)


def _names(texts: list[str]) -> list[str]:
    lines = (" ".join(text.split()) for text in texts)
    return [
        f"{number} {line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + '…'}"
        for number, line in enumerate(lines, 1)
    ]


def _print_table(texts: list[str], scores: Any, metric: Metric) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a terminal shows it
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(metric, *(str(number) for number in range(1, len(texts) + 1)))
    near = _nearness(scores, metric)
    for name, row, shades in zip(_names(texts), scores.tolist(), near.tolist(), strict=True):
        table.add_row(
            escape(name), *(f"[{_colour(shade)}]{value:.4f}[/]" for value, shade in zip(row, shades, strict=True))
        )
    Console().print(table)


def _nearness(scores: Any, metric: Metric) -> Any:
    """Give 0 for the pair that is least alike and 1 for the one that is most alike; a text and itself do not count."""
    import numpy as np  # noqa: PLC0415 - as above

    alike = scores if metric in {"cosine", "dot"} else -scores
    pairs = alike[~np.eye(len(alike), dtype=bool)]
    low, high = pairs.min(), pairs.max()
    return np.clip((alike - low) / (high - low), 0, 1) if high > low else np.ones_like(alike)


def _colour(nearness: float) -> str:
    return f"rgb({round(255 * min(1, 2 - 2 * nearness))},{round(200 * min(1, 2 * nearness))},60)"
