"""The figure, colours and labels that all plots share."""

import io
from collections.abc import Sequence
from itertools import cycle, islice

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
"""Okabe and Ito's palette for colour-blind readers (jfly.uni-koeln.de/color), without yellow, which is pale on white."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""One fewer than the colours, so that 42 groups have 42 different pairs."""

GREY = "#999999"
SEQUENTIAL = "viridis"
LONGEST_LABEL = 28
"""Most characters in a label. Longer texts are shortened."""


class Picture(Figure):
    """A figure without a window: it need not be closed, and a notebook shows it as a PNG."""

    def __init__(self, width: float, height: float) -> None:
        """Create an empty figure, with width and height in inches."""
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def settle(self) -> None:
        """Compute the layout and fix it, so that labels can be placed."""
        self.draw_without_rendering()
        self.set_layout_engine("none")

    def _repr_png_(self) -> bytes:
        drawing = io.BytesIO()
        self.savefig(drawing, format="png")
        return drawing.getvalue()


def looks(count: int) -> list[tuple[str, str]]:
    """Return a colour and a marker for each of ``count`` groups."""
    return list(islice(zip(cycle(COLORS), cycle(MARKERS), strict=False), count))


def shorten(text: object, longest: int = LONGEST_LABEL) -> str:
    """Return a text as one line of at most ``longest`` characters. Escape ``$``, with which matplotlib begins a formula."""
    line = " ".join(str(text).split())
    short = line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
    return short.replace("$", r"\$")


def check_count(names: Sequence[object], count: int, what: str) -> None:
    """Raise ``ValueError`` unless there is one name for each vector."""
    if len(names) != count:
        raise ValueError(f"{what} has {len(names)} entries for {count} vectors: pass one for each")
