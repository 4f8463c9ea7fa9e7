"""Draw the similarity of texts as colours."""

from collections.abc import Sequence
from itertools import groupby
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.plot.style import SEQUENTIAL, Picture, check_count, shorten
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.similarity import normalize

Texts: TypeAlias = Sequence[str]
Cells: TypeAlias = NDArray[np.float64]

MOST_CELLS = 400
"""Most cells on a side. With more vectors, several share a cell."""

_MOST_LABELS = 40
_SOME_LABELS = 25
"""Labels on a side when not every row can have one."""

_MOST_NUMBERS = 12
_CELL = 0.3
"""Size of a cell in inches, unless there are too many cells."""

_LARGEST = 8.0
"""Longest side in inches."""


def similarity_heatmap(
    rows: Texts | ArrayLike,
    columns: Texts | ArrayLike | None = None,
    *,
    labels: Texts | None = None,
    column_labels: Texts | None = None,
    model: str | None = None,
    title: str | None = None,
) -> Picture:
    """Draw the cosine of every pair as a colour.

    Up to 12 rows and columns, the cells show the numbers. Up to 40, every row has a label. Neighbours with the same label
    share one. Beyond 400, a cell is the mean over several neighbours, so sort the rows in a meaningful order.

    Args:
        rows: Texts, or vectors of shape (n, d).
        columns: Texts or vectors to compare the rows with; None compares the rows with each other. With columns, texts in
            ``rows`` are embedded as queries and texts in ``columns`` as documents; without, all are documents.
        labels: Label of each row; None takes the texts, or the row numbers of vectors.
        column_labels: Label of each column, likewise.
        model: Model that embeds texts, for ``get_engine``.
        title: Title above the picture; None for no title.

    Raises:
        ValueError: If a vector is zero, dimensions differ, or the number of labels is wrong.
        MLXQwenEmbeddingsError: See the engine's methods.
    """
    left, left_names = _read(rows, labels, "labels", model, "document" if columns is None else "query")
    right, right_names = (left, left_names)
    if columns is not None:
        right, right_names = _read(columns, column_labels, "column_labels", model, "document")
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"rows have {left.shape[1]} dimensions, columns {right.shape[1]}: embed both with the same model")
    steps = _step(len(left)), _step(len(right))
    # The mean of cosines is the product of the means of unit vectors.
    cells: Cells = np.clip(_fold(left, steps[0]) @ _fold(right, steps[1]).T, -1, 1)
    return _draw(cells, (left_names, right_names), steps, (len(left), len(right)), title)


def _read(
    given: Texts | ArrayLike, labels: Texts | None, what: str, model: str | None, role: Role
) -> tuple[NDArray[np.float32], list[str]]:
    values = list(given) if isinstance(given, Sequence) else given
    texts = values if isinstance(values, list) and values and all(isinstance(value, str) for value in values) else None
    if texts is not None:
        engine = get_engine(model)
        values = engine.embed_queries(texts) if role == "query" else engine.embed_documents(texts)
    vectors = normalize(values)
    if vectors.ndim != 2 or not len(vectors):  # noqa: PLR2004 - a matrix
        raise ValueError(f"rows and columns are texts, or vectors of shape (n, d) with n at least 1, not {vectors.shape}")
    if labels is not None:
        check_count(labels, len(vectors), what)
    return vectors, [str(name) for name in labels or texts or range(len(vectors))]


def _step(count: int) -> int:
    return -(-count // MOST_CELLS)


def _fold(vectors: NDArray[np.float32], step: int) -> Cells:
    starts = np.arange(0, len(vectors), step)
    sums: Cells = np.add.reduceat(vectors.astype(np.float64), starts, axis=0)
    return sums / np.diff([*starts, len(vectors)])[:, None]


def _draw(
    cells: Cells, names: tuple[list[str], list[str]], steps: tuple[int, int], counts: tuple[int, int], title: str | None
) -> Picture:
    numbered = max(cells.shape) <= _MOST_NUMBERS
    cell = 1.6 * _CELL if numbered else _CELL
    high, wide = (min(_LARGEST, max(2.2, cell * size)) for size in cells.shape)
    picture = Picture(wide + 3.4, high + 2.2)
    axes = picture.subplots()
    image = axes.imshow(cells, cmap=SEQUENTIAL, vmin=min(0.0, float(cells.min())), vmax=1.0, aspect="auto")
    bar = picture.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label("cosine" if max(steps) == 1 else f"mean cosine of {steps[0]} x {steps[1]} vectors")
    _label(axes, names, steps, counts)
    if numbered:
        _write(axes, image, cells)
    axes.set_title(title or "")
    return picture


def _label(axes: Axes, names: tuple[list[str], list[str]], steps: tuple[int, int], counts: tuple[int, int]) -> None:
    for axis, words, step, count in zip((axes.yaxis, axes.xaxis), names, steps, counts, strict=True):
        every = 1 if count <= _MOST_LABELS else -(-count // _SOME_LABELS)
        chosen = _runs(words, every)
        axis.set_ticks([row / step for row, _ in chosen], [shorten(word) for _, word in chosen], fontsize=8)
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(length=0 if max(counts) <= _MOST_LABELS else 3)


def _runs(words: list[str], every: int) -> list[tuple[float, str]]:
    """Return the middle row of each run of equal words, and the word. Skip runs less than ``every`` rows after the last."""
    chosen: list[tuple[float, str]] = []
    start = 0
    for word, same in groupby(words):
        end = start + len(list(same))
        middle = (start + end - 1) / 2
        if not chosen or middle - chosen[-1][0] >= every:
            chosen.append((middle, word))
        start = end
    return chosen


def _write(axes: Axes, image: AxesImage, cells: Cells) -> None:
    red, green, blue, _ = np.moveaxis(image.to_rgba(cells), -1, 0) ** 2.2
    # At this luminance black and white have the same contrast (WCAG's relative luminance).
    pale = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179  # noqa: PLR2004 - explained above
    for row, column in np.ndindex(cells.shape):
        color = "black" if pale[row, column] else "white"
        axes.text(column, row, f"{cells[row, column]:.2f}", ha="center", va="center", fontsize=8, color=color)
