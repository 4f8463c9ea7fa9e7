"""``mlx-qwen compare``."""

import json
from typing import Annotated, Unpack

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
        raise typer.BadParameter("compare needs at least two texts")
    from mlx_qwen_embeddings.engine import EmbeddingEngine
    from mlx_qwen_embeddings.similarity import METRICS

    with EmbeddingEngine(model, cache_dir=model_dir) as engine:
        vectors = (engine.embed_queries if role == "query" else engine.embed_documents)(texts, **options)
    scores = METRICS[metric](vectors, vectors)
    if as_json:
        rounded = [[round(value, 6) for value in row] for row in scores.tolist()]
        typer.echo(json.dumps({"metric": metric, "texts": texts, "scores": rounded}, ensure_ascii=False, indent=2))
    else:
        rows = [["", *(f"{number}" for number in range(1, len(texts) + 1))]]
        for number, (text, row) in enumerate(zip(texts, scores.tolist(), strict=True), 1):
            rows.append([f"{number} {shortened(text, SHOWN_CHARACTERS)}", *(f"{value:.4f}" for value in row)])
        typer.echo(aligned(rows))
