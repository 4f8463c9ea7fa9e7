"""Draw what shorter and less precise vectors cost in quality."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from mlx_qwen_embeddings.plot.style import COLORS, Picture, looks, shorten

_LEAST_STEP = 0.08
"""Smallest distance between two labels, as a share of the axis."""

_STROKES = ("-", "--", ":", "-.")
"""Line styles. When the colours repeat, the style changes, so that no two lines look the same."""

_NAMES = {"ndcg10": "nDCG@10", "dimensions": "dimensions", "bytes": "bytes per vector"}


def dimension_curve(
    rows: Sequence[Mapping[str, Any]], *, figure: str = "ndcg10", group: str = "precision", title: str | None = None
) -> Picture:
    """Draw quality against dimensions and, beside it, against bytes per vector, with one line for each precision.

    Args:
        rows: Measurements with the keys "dimensions", "bytes", ``group`` and ``figure``, in any order.
        figure: Key of the measured quality.
        group: Key that separates the lines.
        title: Title above the picture; None for no title.

    Raises:
        ValueError: If there are no rows, or a row lacks a key; the message names it.
    """
    for number, row in enumerate(rows):
        missing = {"dimensions", "bytes", group, figure} - row.keys()
        if missing:
            raise ValueError(f"rows[{number}] has no {', '.join(sorted(missing))}: it has {', '.join(map(str, row))}")
    if not rows:
        raise ValueError("there are no rows to draw: measure at least one number of dimensions")
    lines = {row[group]: sorted((r for r in rows if r[group] == row[group]), key=itemgetter("dimensions")) for row in rows}
    picture = Picture(10, 4.2)
    left, right = picture.subplots(1, 2, sharey=True)
    for axes, along in ((left, "dimensions"), (right, "bytes")):
        for number, ((name, line), (color, marker)) in enumerate(zip(lines.items(), looks(len(lines)), strict=True)):
            xs, ys = [row[along] for row in line], [row[figure] for row in line]
            look = {"marker": marker, "color": color, "linestyle": _STROKES[number // len(COLORS) % len(_STROKES)]}
            axes.plot(xs, ys, **look, label=shorten(name), markersize=5, linewidth=1.4)
        _scale(axes, sorted({row[along] for row in rows}))
        axes.set(xlabel=_NAMES[along])
    left.set(ylabel=_NAMES.get(figure, figure))
    picture.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, title=group)
    if title:
        picture.suptitle(title)
    return picture


def _scale(axes: Axes, values: list[float]) -> None:
    """Put ticks at the values, or at the powers of two within their range if the labels would overlap."""
    axes.set_xscale("log", base=2)
    steps = np.diff(np.log2(values))
    if len(steps) and steps.min() < _LEAST_STEP * steps.sum():
        values = [2.0**power for power in range(40) if values[0] <= 2.0**power <= values[-1]] or values[:1]
    axes.set_xticks(values, [f"{int(value):,}" for value in values], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True, alpha=0.3)
