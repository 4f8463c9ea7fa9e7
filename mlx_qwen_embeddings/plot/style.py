"""Colours, marks and lengths that all pictures share."""

from collections.abc import Sequence
from itertools import cycle, islice

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
"""Okabe and Ito's palette (jfly.uni-koeln.de/color), but for its yellow, which is too pale for points on white."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""One fewer than colours, so that 42 groups each have a pair of their own."""

GREY = "#999999"
SEQUENTIAL = "viridis"
LONGEST_LABEL = 28


def looks(count: int) -> list[tuple[str, str]]:
    """Give colour and marker for so many groups."""
    return list(islice(zip(cycle(COLORS), cycle(MARKERS), strict=False), count))


def shorten(text: object, longest: int = LONGEST_LABEL) -> str:
    """Give a text in one line of at most ``longest`` characters, and as it is where it would be read as mathematics."""
    line = " ".join(str(text).split())
    short = line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
    return short.replace("$", r"\$")


def check_count(names: Sequence[object], count: int, what: str) -> None:
    """Raise ``ValueError`` unless there is one name for each thing."""
    if len(names) != count:
        message = f"{what} has {len(names)} entries for {count} vectors: give one for each"
        raise ValueError(message)
