"""What shorter and coarser vectors cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from mlx_qwen_embeddings.plot.picture import Picture, Spot
from mlx_qwen_embeddings.plot.style import COLORS, looks, shorten

_LEAST_STEP = 0.08
"""Share of the axis between two labels."""

_STROKES = ("-", "--", ":", "-.")
"""One for each round of the colours: two lines of one colour have different strokes."""

_NAMES = {"ndcg10": "nDCG@10", "dimensions": "dimensions", "bytes": "bytes a vector"}


def dimension_curve(
    rows: Sequence[Mapping[str, Any]], *, figure: str = "ndcg10", group: str = "precision", title: str | None = None
) -> Picture:
    """Draw a figure of quality against dimensions and, beside it, against bytes a vector; one line a precision.

    Args:
        rows: Measurements with "dimensions", "bytes", ``group`` and ``figure``, in any order.
        figure: What is measured.
        group: What each line stands for.
        title: Above the picture.

    Raises:
        ValueError: For no rows, or one that lacks a field; the message names it.
    """
    for number, row in enumerate(rows):
        missing = {"dimensions", "bytes", group, figure} - row.keys()
        if missing:
            message = f"rows[{number}] has no {', '.join(sorted(missing))}: it has {', '.join(map(str, row))}"
            raise ValueError(message)
    if not rows:
        message = "there are no rows to draw: measure at least one number of dimensions"
        raise ValueError(message)
    lines = {row[group]: sorted((r for r in rows if r[group] == row[group]), key=_dimensions) for row in rows}
    picture = Picture(10, 4.2)
    left, right = picture.subplots(1, 2, sharey=True)
    for axes, along in ((left, "dimensions"), (right, "bytes")):
        for number, ((name, line), (color, marker)) in enumerate(zip(lines.items(), looks(len(lines)), strict=True)):
            xs, ys = [row[along] for row in line], [row[figure] for row in line]
            look = {"marker": marker, "color": color, "linestyle": _STROKES[number // len(COLORS) % len(_STROKES)]}
            axes.plot(xs, ys, **look, label=shorten(name), markersize=5, linewidth=1.4)
            picture.spots += [Spot(axes, row[along], row[figure], _told(row, group, figure)) for row in line]
        _scale(axes, sorted({row[along] for row in rows}))
        axes.set(xlabel=_NAMES[along])
    left.set(ylabel=_NAMES.get(figure, figure))
    picture.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, title=group)
    if title:
        picture.suptitle(title)
    picture.settle()
    return picture


def _dimensions(row: Mapping[str, Any]) -> float:
    return float(row["dimensions"])


def _told(row: Mapping[str, Any], group: str, figure: str) -> str:
    head = f"{row[group]}, {row['dimensions']} dimensions, {row['bytes']:,} bytes"
    return f"{head}: {_NAMES.get(figure, figure)} {row[figure]:.4g}"


def _scale(axes: Axes, values: list[float]) -> None:
    """Ticks at the values, or at powers of two within them where the labels of the values would overlap."""
    axes.set_xscale("log", base=2)
    steps = np.diff(np.log2(values))
    if len(steps) and steps.min() < _LEAST_STEP * steps.sum():
        values = [2.0**power for power in range(40) if values[0] <= 2.0**power <= values[-1]] or values[:1]
    axes.set_xticks(values, [f"{int(value):,}" for value in values], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True, alpha=0.3)
