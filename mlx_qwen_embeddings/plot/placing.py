"""Put words beside points so that no two of them overlap."""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from mlx_qwen_embeddings.plot.style import GREY

_GAP = 2.0
"""Pixels that stay free around words."""

_SIZE = 9
"""Of the type, in points."""

_REACH = (7, 14, 24)
"""Distances from the point that are tried, in typographic points."""

_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def place(
    axes: Axes, renderer: Any, words: Iterable[tuple[float, float, str]], *, taken: list[Bbox], upon: bool = False
) -> list[Annotation]:
    """Write each word near its point, with a line to it; one that has no free place there is left out.

    Args:
        axes: Where; their layout has to be settled.
        renderer: Knows how large the words are.
        words: x and y of the point, and the word; the important ones first.
        taken: Boxes in pixels that stay free, such as those of points; the words' own are added.
        upon: Whether a word may stand upon its point, as the name of a region does; it has no line then.
    """
    placed = []
    for x, y, word in words:
        note = _write(axes, (x, y), word, line=not upon)
        for offset, across, along in _places(upon=upon):
            note.set_position(offset)
            note.set(ha=across, va=along)
            note.update_positions(renderer)
            # Of the words alone: the note's own would hold the line too.
            box = Text.get_window_extent(note, renderer).padded(_GAP)
            if _within(axes.bbox, box) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                placed.append(note)
                break
        else:
            note.remove()
    return placed


def _write(axes: Axes, at: tuple[float, float], word: str, *, line: bool) -> Annotation:
    arrow = {"arrowstyle": "-", "linewidth": 0.6, "color": GREY, "shrinkA": 0, "shrinkB": 3} if line else None
    note = axes.annotate(word, at, (0, 0), textcoords="offset points", fontsize=_SIZE, arrowprops=arrow)
    note.set_in_layout(False)
    note.set_path_effects([withStroke(linewidth=3, foreground="white")])
    return note


def _places(*, upon: bool) -> Iterator[tuple[tuple[float, float], str, str]]:
    """Give offset and alignment of every place around a point, the near ones first."""
    if upon:
        yield (0, 0), "center", "center"
    for distance, (right, up) in product(_REACH, _SIDES):
        across = {1: "left", 0: "center", -1: "right"}[right]
        along = {1: "bottom", 0: "center", -1: "top"}[up]
        yield (right * distance, up * distance), across, along


def _within(outer: Any, inner: Bbox) -> bool:
    return bool(outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1)
