"""``mlx-qwen compare``."""

import json
import sys
from typing import Annotated, Any, Unpack

import typer

from mlx_qwen_embeddings.cli.common import (
    JsonOption,
    Metric,
    ModelDirOption,
    ModelOption,
    RoleOption,
    aligned,
    shortened,
    with_options,
)
from mlx_qwen_embeddings.options import CallOptions

SHOWN_CHARACTERS = 40


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
        message = "compare needs at least two texts"
        raise typer.BadParameter(message)
    from mlx_qwen_embeddings.engine import EmbeddingEngine
    from mlx_qwen_embeddings.similarity import METRICS

    with EmbeddingEngine(model, cache_dir=model_dir) as engine:
        vectors = (engine.embed_queries if role == "query" else engine.embed_documents)(texts, **options)
    scores = METRICS[metric](vectors, vectors)
    if as_json:
        rounded = [[round(value, 6) for value in row] for row in scores.tolist()]
        typer.echo(json.dumps({"metric": metric, "texts": texts, "scores": rounded}, ensure_ascii=False, indent=2))
    elif sys.stdout.isatty():
        _print_table(texts, scores, metric)
    else:
        numbers = ["", *(f"{number}" for number in range(1, len(texts) + 1))]
        rows = [
            [name, *(f"{value:.4f}" for value in row)] for name, row in zip(_names(texts), scores.tolist(), strict=True)
        ]
        typer.echo(aligned([numbers, *rows]))


def _names(texts: list[str]) -> list[str]:
    return [f"{number} {shortened(text, SHOWN_CHARACTERS)}" for number, text in enumerate(texts, 1)]


def _print_table(texts: list[str], scores: Any, metric: Metric) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(metric, *(str(number) for number in range(1, len(texts) + 1)))
    closeness = _closeness(scores, metric)
    for name, row, shades in zip(_names(texts), scores.tolist(), closeness.tolist(), strict=True):
        table.add_row(
            escape(name), *(f"[{_colour(shade)}]{value:.4f}[/]" for value, shade in zip(row, shades, strict=True))
        )
    Console().print(table)


def _closeness(scores: Any, metric: Metric) -> Any:
    """Scale scores so that the least similar pair has 0 and the most similar 1, not counting a text with itself."""
    import numpy as np

    similarities = scores if metric in {"cosine", "dot"} else -scores
    pairs = similarities[~np.eye(len(similarities), dtype=bool)]
    low, high = pairs.min(), pairs.max()
    return np.clip((similarities - low) / (high - low), 0, 1) if high > low else np.ones_like(similarities)


def _colour(closeness: float) -> str:
    return f"rgb({round(255 * min(1, 2 - 2 * closeness))},{round(200 * min(1, 2 * closeness))},60)"
