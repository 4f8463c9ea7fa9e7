"""``mlx-qwen evaluate``."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mlx_qwen_embeddings.tools.evaluate import Score


def evaluate(
    model: Annotated[str, typer.Argument(help="Alias, Hub name or local folder.")],
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Retrieval sets: corpus.jsonl, queries.jsonl, qrels.tsv each.")
    ] = None,
    *,
    sts: Annotated[
        list[Path] | None, typer.Option(help="Scored pairs: score, sentence, sentence, divided by tabs.")
    ] = None,
    dimensions: Annotated[int | None, typer.Option(help="Keep so many leading dimensions.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut texts at so many tokens.")] = None,
    instruction: Annotated[str | None, typer.Option(help="The task in words; the model's own otherwise.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many queries or pairs of a set.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Measure nDCG@10 on retrieval sets and Spearman's correlation on scored pairs."""
    if not folders and not sts:
        message = "nothing to measure: name a folder, or a file with --sts"
        raise typer.BadParameter(message)
    # Here, since numpy and pydantic take a quarter of a second that --help need not.
    from mlx_qwen_embeddings.engine import EmbeddingEngine  # noqa: PLC0415 - as said above
    from mlx_qwen_embeddings.options import CallOptions  # noqa: PLC0415 - as above
    from mlx_qwen_embeddings.tools.evaluate import evaluate_pairs, evaluate_retrieval  # noqa: PLC0415 - as above

    options = CallOptions(dimensions=dimensions, max_length=max_length, show_progress=sys.stderr.isatty() and not as_json)
    with EmbeddingEngine(model) as engine:
        runs = [(evaluate_retrieval, path) for path in folders or ()] + [(evaluate_pairs, path) for path in sts or ()]
        scores = [run(engine, path, instruction=instruction, limit=limit, options=options) for run, path in runs]
    typer.echo(json.dumps([asdict(score) for score in scores], indent=2) if as_json else _table(scores))


def _table(scores: "list[Score]") -> str:
    lines = [("set", "figure", "score", "queries", "documents", "seconds")]
    lines += [
        (
            score.data,
            score.figure,
            f"{score.value:.3f}",
            f"{score.queries:,}",
            f"{score.documents:,}" if score.documents else "",
            f"{score.seconds:.0f}",
        )
        for score in scores
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = 2  # the other columns are numbers
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
