"""A figure of matplotlib that shows texts in a notebook when the pointer rests on a place."""

import base64
import html
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

from mlx_qwen_embeddings._extras import require

require("matplotlib", "notebooks", "mlx_qwen_embeddings.plot")

from matplotlib.axes import Axes  # noqa: E402 - the line above says what to install when this is missing
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402 - as above
from matplotlib.figure import Figure  # noqa: E402 - as above

_PIXELS = 96
"""Of a screen's inch, by CSS."""

_SHARPNESS = 1.5
"""Pixels of the picture to one of the screen's, for displays that have more."""


class Spot(NamedTuple):
    """A place with a text: a circle of ``radius`` points around (x, y), or a box as wide and high as a cell, in data units.

    Attributes:
        axes: Where x and y count.
        x: Its middle.
        y: Its middle.
        text: What is shown.
        radius: In typographic points; None for a box one unit wide and high.
    """

    axes: Axes
    x: float
    y: float
    text: str
    radius: float | None = 4.0


class Picture(Figure):
    """A ``matplotlib.figure.Figure``; ``spots`` are its places with texts.

    It belongs to no window, so nothing has to be closed. ``savefig`` stores it.
    """

    def __init__(self, width: float, height: float) -> None:
        """Make an empty one; width and height are in inches."""
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)
        self.spots: list[Spot] = []

    def settle(self) -> Any:
        """Lay everything out, and leave it there; gives the renderer that knows how large texts are."""
        self.draw_without_rendering()
        self.set_layout_engine("none")
        canvas: Any = self.canvas
        return canvas.get_renderer()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, str], dict[str, Any]]:  # noqa: ARG002 - IPython's signature
        drawing = io.BytesIO()
        self.savefig(drawing, format="png", dpi=_PIXELS * _SHARPNESS)
        encoded = base64.b64encode(drawing.getvalue()).decode("ascii")
        width, height = (round(float(inches) * _PIXELS) for inches in self.get_size_inches())
        bundle = {"image/png": encoded, "text/plain": repr(self)}
        if self.spots:
            bundle["text/html"] = "".join(self._overlaid(encoded, width, height))
        return bundle, {"image/png": {"width": width, "height": height}}

    def _overlaid(self, encoded: str, width: int, height: int) -> Iterable[str]:
        yield f'<div style="position:relative;max-width:{width}px">'
        yield f'<img style="width:100%;display:block" src="data:image/png;base64,{encoded}">'
        yield f'<svg viewBox="0 0 {width} {height}" style="position:absolute;inset:0;width:100%;height:100%">'
        yield '<g fill="transparent" stroke="none">'
        yield from (f"{_shape(spot, height)}" for spot in self.spots)
        yield "</g></svg></div>"


def _shape(spot: Spot, height: int) -> str:
    """Draw a spot in CSS pixels from the top left corner."""
    scale = _PIXELS / spot.axes.figure.dpi
    (x, y), (right, top) = spot.axes.transData.transform([(spot.x, spot.y), (spot.x + 0.5, spot.y + 0.5)]) * scale
    title = f"<title>{html.escape(spot.text)}</title>"
    if spot.radius is not None:
        return f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="{spot.radius * _PIXELS / 72:.1f}">{title}</circle>'
    half_width, half_height = abs(right - x), abs(top - y)
    corner = f'x="{x - half_width:.1f}" y="{height - y - half_height:.1f}"'
    return f'<rect {corner} width="{2 * half_width:.1f}" height="{2 * half_height:.1f}">{title}</rect>'
