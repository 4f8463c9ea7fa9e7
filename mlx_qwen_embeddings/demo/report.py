"""The demo's output: plain text that fits the terminal."""

import textwrap
from collections.abc import Sequence

from mlx_qwen_embeddings.demo.runs import Run

NARROWEST, WIDEST = 60, 120
"""Columns that the output is kept between, whatever the terminal has."""

_LONGEST_PASSAGE = 260
_GAP = "  "


def answers(questions: Sequence[str], run: Run, width: int) -> list[str]:
    """Lay out a table of question, best passage and score.

    Args:
        questions: What was asked.
        run: What was found.
        width: Most columns of a line.
    """
    score = len("score")
    question = (width - score - 2 * len(_GAP)) // 3
    passage = width - question - score - 2 * len(_GAP)
    widths = (question, passage, score)
    lines = [_row(("question", "best passage", "score"), widths), _row(["-" * column for column in widths], widths)]
    for asked, hit in zip(questions, run.hits, strict=True):
        text = textwrap.shorten(hit.passage.text, _LONGEST_PASSAGE, placeholder=" ...")
        cells = (
            textwrap.wrap(asked, question),
            [*textwrap.wrap(text, passage), *textwrap.wrap(f"[{hit.passage.source}]", passage)],
            [f"{hit.score:.2f}".rjust(score)],
        )
        lines += [_row(parts, widths) for parts in _across(cells)]
        lines.append("")
    return lines


def times(load_seconds: float, passages: int, runs: Sequence[Run]) -> list[str]:
    """Lay out what each step took, one column a framework."""
    _, *others = runs
    rows = [
        ("", *(run.framework for run in runs)),
        ("load the model", f"{load_seconds:.2f} s", *("shared" for _ in others)),
        (f"embed and store {passages} passages", *(f"{run.index_seconds:.2f} s" for run in runs)),
        ("answer a question, on average", *(f"{1000 * run.question_seconds:.1f} ms" for run in runs)),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_row(row, widths) for row in rows]


def prose(text: str, width: int) -> list[str]:
    """Break a text into lines."""
    return textwrap.wrap(text, width)


def _across(cells: Sequence[list[str]]) -> list[tuple[str, ...]]:
    height = max(map(len, cells))
    return list(zip(*(cell + [""] * (height - len(cell)) for cell in cells), strict=True))


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
