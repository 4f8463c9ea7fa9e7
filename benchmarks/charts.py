"""Draw the charts of the results."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, THEIRS = "#0072B2", "#D55E00"
"""Colours that people with red-green blindness can distinguish."""


def ratios(cases: dict[str, float]) -> "Figure":
    """Draw how many times longer each peer takes than this package."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.55 * len(cases) + 1.2), layout="constrained")
    axes = figure.subplots()
    colours = [OURS if ratio >= 1 else THEIRS for ratio in cases.values()]
    axes.barh(list(cases), [ratio - 1 for ratio in cases.values()], left=1, color=colours)
    for row, ratio in enumerate(cases.values()):
        # At the end of the bar, or right of the line if the bar points left.
        axes.annotate(f"{ratio:.2f}", (max(ratio, 1), row), xytext=(4, 0), textcoords="offset points", va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="time, as a multiple of this package's (log scale; the line is this package)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def growth(found: dict[str, Any]) -> "Figure":
    """Draw time against the number of texts, against their length, and against the number of callers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _line(left, found["nano, seconds by texts"], "nano", OURS)
    left.set(xlabel="texts", ylabel="seconds", title="Number of texts")
    for name, colour in (("nano", OURS), ("0.6B", THEIRS)):
        if (by_length := found.get(f"{name}, seconds by length")) is not None:
            _line(middle, by_length, name, colour)
    middle.set(xlabel="tokens", ylabel="seconds", title="Length of one text")
    callers = found["nano, by callers"]
    for figure_name, colour in (("p50", OURS), ("p95", THEIRS), ("p99", "#009E73")):
        _line(right, {number: 1000 * row[figure_name] for number, row in callers.items()}, figure_name, colour)
    right.set(xlabel="callers at once, nano", ylabel="milliseconds a query", title="Callers")
    for axes in (left, middle, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _line(axes: "Axes", points: dict[str, float], label: str, colour: str) -> None:
    xs, ys = [float(x) for x in points], list(points.values())
    axes.loglog(xs, ys, "o-", color=colour, label=label)
    linear = [ys[-1] * x / xs[-1] for x in xs]
    if label in {"nano", "0.6B"}:
        axes.loglog(xs, linear, ":", color=colour, linewidth=1, label=f"{label}, in proportion")
