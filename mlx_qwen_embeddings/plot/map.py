"""Draw a map of texts: similar texts are close together."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.plot.style import GREY, Picture, check_count, looks, shorten
from mlx_qwen_embeddings.similarity.clusters import one_thread

if TYPE_CHECKING:
    from matplotlib.transforms import Bbox

Method: TypeAlias = Literal["pca", "tsne"]
Points: TypeAlias = NDArray[np.float64]

_PLANE = 2
_BEFORE_TSNE = 50
"""Principal components that t-SNE starts from, as its authors do (van der Maaten and Hinton, 2008)."""


def project(vectors: NDArray[np.float32], method: Method, seed: int) -> tuple[Points, tuple[str, str]]:
    """Return points of shape (n, 2), and the names of the axes. Vectors with two columns are points already.

    Raises:
        MissingExtraError: If t-SNE needs scikit-learn and it is not installed.
        ValueError: If the method is unknown.
    """
    if vectors.shape[1] == _PLANE:
        return vectors.astype(np.float64), ("", "")
    if method == "pca":
        points, shares = principal(vectors, _PLANE)
        return points, (f"1st component, {shares[0]:.0%} of variance", f"2nd component, {shares[1]:.0%}")
    if method == "tsne":
        tsne: Any = require("sklearn.manifold", "notebooks", "t-SNE").TSNE
        start, _ = principal(vectors, min(_BEFORE_TSNE, *vectors.shape))
        if len(vectors) <= _PLANE:
            return np.pad(start, ((0, 0), (0, _PLANE)))[:, :_PLANE], ("", "")
        perplexity = min(30.0, (len(vectors) - 1) / 3)
        with one_thread():
            found: Points = tsne(perplexity=perplexity, init="pca", random_state=seed).fit_transform(start)
        return found, ("t-SNE: close points are similar; large distances mean little", "")
    raise ValueError(f'unknown method {method!r}: choose "pca" or "tsne", or pass points of your own, shape (n, 2)')


def principal(vectors: NDArray[np.float32], count: int) -> tuple[Points, NDArray[np.float64]]:
    """Return the first principal components, shape (n, count), and each one's share of the variance."""
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    # The covariance matrix is (d, d), however many vectors there are.
    variances, directions = np.linalg.eigh(centered.T @ centered)
    variances, directions = variances[::-1].clip(0), directions[:, ::-1][:, :count]
    # The sign of an eigenvector is arbitrary: choose the same one on every machine.
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(directions.shape[1])])
    return centered @ directions, variances[:count] / max(float(variances.sum()), 1e-30)


MOST_GROUPS = 20
"""Most groups with a colour and marker of their own. The smaller ones are grey."""

_MOST_NAMED = 30
"""Most points on a map that labels its points."""

_FONT_SIZE = 9


def embedding_map(
    vectors: ArrayLike,
    labels: Sequence[object] | None = None,
    texts: Sequence[str] | None = None,
    *,
    method: Method = "pca",
    title: str | None = None,
    seed: int = 0,
) -> Picture:
    """Draw vectors as points in two dimensions.

    The legend names the groups. With up to 30 points, each is labelled with its text. A label that would cover another
    label or a point is left out.

    Args:
        vectors: Shape (n, d), n up to about 5,000. Vectors with two columns are points already, for example from UMAP.
        labels: Group of each vector. The 20 largest groups have a colour and marker each; the others are grey.
        texts: Text of each vector; None labels the points with their groups.
        method: "pca" is fast; the axes' labels say how much of the variance, and so of the distances, it shows. "tsne"
            (scikit-learn) shows neighbourhoods; it takes about a minute for 5,000 vectors.
        title: Title above the picture; None for no title.
        seed: Seed for t-SNE.

    Raises:
        MissingExtraError: If t-SNE needs scikit-learn and it is not installed.
        ValueError: If vectors are not finite or have fewer than two columns, or the number of labels or texts is wrong.
    """
    given = np.asarray(vectors, dtype=np.float32)
    if given.ndim != 2 or not len(given) or given.shape[1] < 2 or not np.isfinite(given).all():  # noqa: PLR2004 - a map has two axes
        raise ValueError(
            f"vectors must be finite and have the shape (n, d), n at least 1 and d at least 2, not {given.shape}"
        )
    for names, what in ((labels, "labels"), (texts, "texts")):
        if names is not None:
            check_count(names, len(given), what)
    points, (across, along) = project(given, method, seed)
    picture = Picture(8.5 if labels is not None else 7, 5.5)
    axes = picture.subplots()
    axes.set(xticks=[], yticks=[], xlabel=across, ylabel=along, title=title or "")
    axes.margins(0.08)
    groups = _groups(labels, len(given))
    for (name, rows), look in zip(groups.items(), [*looks(MOST_GROUPS), (GREY, ".")], strict=False):
        _draw(axes, points[rows], name, look, len(given))
    if labels is not None:
        legend = picture.legend(loc="outside right upper", frameon=False, fontsize=9)
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set(sizes=[40], alpha=1)  # readable even if the points are small
    words = texts or labels
    if words is not None and len(points) <= _MOST_NAMED:
        picture.settle()
        _label(axes, points, [shorten(word) for word in words])
    return picture


def _groups(labels: Sequence[object] | None, count: int) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each group, the largest first. The last entry may combine all smaller groups."""
    names = [str(label) for label in labels] if labels is not None else [""] * count
    counts = Counter(names).most_common()
    kept = [name for name, _ in counts[: MOST_GROUPS if len(counts) > MOST_GROUPS else None]]
    rows = np.array(names, dtype=object)
    groups = {name: np.flatnonzero(rows == name) for name in kept}
    if len(counts) > len(kept):
        groups[f"{len(counts) - len(kept)} others"] = np.flatnonzero(~np.isin(names, kept))
    return groups


def _draw(axes: Axes, points: Points, name: str, look: tuple[str, str], count: int) -> None:
    color, marker = look
    size = float(np.clip(8000 / count, 7, 55))
    alpha = 0.9 if count <= 500 else 0.6  # noqa: PLR2004 - with more, points overlap
    xs, ys = points.T
    label = shorten(name)
    axes.scatter(xs, ys, s=size, c=color, marker=marker, alpha=alpha, linewidths=0.4, edgecolors="white", label=label)


def _label(axes: Axes, points: Points, words: Sequence[str]) -> None:
    """Write a label beside each point, with a line to it. Leave out a label that would cover a point or another label."""
    texts = [axes.text(x, y, word, fontsize=_FONT_SIZE) for (x, y), word in zip(points, words, strict=True)]
    xs, ys = points.T
    adjust_text(texts, xs, ys, ax=axes, expand=(1.1, 1.6), force_static=(0.2, 0.5), iter_lim=300)
    line = {"arrowstyle": "-", "linewidth": 0.6, "color": GREY, "shrinkA": 0, "shrinkB": 3}
    outline = [withStroke(linewidth=3, foreground="white")]
    pixels = axes.transData.transform(points)
    taken: list[Bbox] = []
    for text, point in zip(texts, points, strict=True):
        box = text.get_window_extent()
        if not any(box.overlaps(other) for other in taken) and not any(box.padded(3).contains(x, y) for x, y in pixels):
            taken.append(box)
            axes.annotate(
                text.get_text(),
                tuple(point),
                text.get_position(),
                ha=text.get_horizontalalignment(),
                va=text.get_verticalalignment(),
                fontsize=_FONT_SIZE,
                arrowprops=line,
                path_effects=outline,
            )
        text.remove()
