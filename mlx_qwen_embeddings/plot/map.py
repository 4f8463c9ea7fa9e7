"""A map of texts: alike ones are near each other."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.plot.picture import Picture, Spot
from mlx_qwen_embeddings.plot.placing import place
from mlx_qwen_embeddings.plot.style import GREY, check_count, looks, shorten
from mlx_qwen_embeddings.similarity.clusters import one_thread

Method: TypeAlias = Literal["pca", "tsne"]
Points: TypeAlias = NDArray[np.float64]

_PLANE = 2
_BEFORE_TSNE = 50
"""Principal components that t-SNE starts from, as its authors do (van der Maaten and Hinton, 2008)."""


def project(vectors: NDArray[np.float32], method: Method, seed: int) -> tuple[Points, tuple[str, str]]:
    """Give points, (n, 2), and what the axes are; two columns are points already.

    Raises:
        MissingExtraError: When t-SNE is asked for and scikit-learn is not installed.
        ValueError: For another method.
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
        return found, ("t-SNE: near points are alike; far distances mean little", "")
    message = f'unknown method {method!r}: choose "pca" or "tsne", or pass points of your own, shape (n, 2)'
    raise ValueError(message)


def principal(vectors: NDArray[np.float32], count: int) -> tuple[Points, NDArray[np.float64]]:
    """Give the first principal components, (n, count), and each one's share of the variance."""
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    # Of the covariance: its size is the width of the vectors, however many there are.
    variances, directions = np.linalg.eigh(centered.T @ centered)
    variances, directions = variances[::-1].clip(0), directions[:, ::-1][:, :count]
    # Eigenvectors have no sign of their own: one for all machines.
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(directions.shape[1])])
    return centered @ directions, variances[:count] / max(float(variances.sum()), 1e-30)


MOST_GROUPS = 20
"""Groups with a look of their own; the smallest ones beyond are grey together."""

_MOST_NAMED = 30
"""Points up to which each one has its own words in the picture."""

_MOST_REGIONS = 12
"""Groups up to which their names stand in the picture too; more of them would hide the points."""

_NEIGHBOURS, _AT_ONCE = 10, 500
"""Points around a member that are looked at for its group's name, and members that this is done for at once."""

_HOVER = 200
"""Characters that are shown of a text at most."""


def embedding_map(
    vectors: ArrayLike,
    labels: Sequence[object] | None = None,
    hover: Sequence[str] | None = None,
    *,
    method: Method = "pca",
    title: str | None = None,
    seed: int = 0,
) -> Picture:
    """Draw vectors as points in two dimensions.

    Up to 30 points have their words beside them; beyond, up to 12 groups have their names upon them. Words that would
    overlap are left out. The legend names all groups, and the rest is shown when the pointer rests on a point.

    Args:
        vectors: Shape (n, d), from 5 to some 5,000; with two columns they are points already, from UMAP for example.
        labels: Group of each vector; the 20 largest have colour and mark of their own, the others are grey.
        hover: Text of each vector.
        method: "pca" is quick, and distances are true as far as the two shares of variance reach; "tsne" (scikit-learn)
            shows neighbourhoods, and takes a minute or so for 5,000.
        title: Above the picture.
        seed: Of t-SNE.

    Raises:
        MissingExtraError: When t-SNE is asked for and scikit-learn is not installed.
        ValueError: For vectors without two axes or of no number, or labels or texts of another number.
    """
    given = np.asarray(vectors, dtype=np.float32)
    if given.ndim != 2 or not len(given) or given.shape[1] < 2 or not np.isfinite(given).all():  # noqa: PLR2004 - a map has two axes
        message = f"vectors must be finite and have the shape (n, d), n at least 1 and d at least 2, not {given.shape}"
        raise ValueError(message)
    for names, what in ((labels, "labels"), (hover, "hover")):
        if names is not None:
            check_count(names, len(given), what)
    points, (across, along) = project(given, method, seed)
    picture = Picture(8.5 if labels is not None else 7, 5.5)
    axes = picture.subplots()
    axes.set(xticks=[], yticks=[], xlabel=across, ylabel=along, title=title or "")
    axes.margins(0.08)
    groups = _groups(labels, len(given))
    for (name, rows), look in zip(groups.items(), _looks(groups), strict=True):
        _draw(axes, points[rows], name, look, len(given))
    if labels is not None:
        legend = picture.legend(loc="outside right upper", frameon=False, fontsize=9)
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set(sizes=[40], alpha=1)  # readable where the points are small
    texts = _texts(labels, hover, len(given))
    picture.spots = [Spot(axes, x, y, text) for (x, y), text in zip(points.tolist(), texts, strict=True)]
    _name(picture, axes, points, groups if labels is not None else {}, hover or labels)
    return picture


def _groups(labels: Sequence[object] | None, count: int) -> dict[str, NDArray[np.intp]]:
    """Give the rows of each group, the largest first; the last one may hold all that are left."""
    names = [str(label) for label in labels] if labels is not None else [""] * count
    counts = Counter(names).most_common()
    kept = [name for name, _ in counts[: MOST_GROUPS if len(counts) > MOST_GROUPS else None]]
    rows = np.array(names, dtype=object)
    groups = {name: np.flatnonzero(rows == name) for name in kept}
    if len(counts) > len(kept):
        groups[f"{len(counts) - len(kept)} others"] = np.flatnonzero(~np.isin(names, kept))
    return groups


def _looks(groups: dict[str, NDArray[np.intp]]) -> list[tuple[str, str]]:
    own = looks(min(len(groups), MOST_GROUPS))
    return [*own, (GREY, ".")][: len(groups)]


def _draw(axes: Axes, points: Points, name: str, look: tuple[str, str], count: int) -> None:
    color, marker = look
    size = float(np.clip(8000 / count, 7, 55))
    alpha = 0.9 if count <= 500 else 0.6  # noqa: PLR2004 - from there on points lie upon each other
    xs, ys = points.T
    label = shorten(name)
    axes.scatter(xs, ys, s=size, c=color, marker=marker, alpha=alpha, linewidths=0.4, edgecolors="white", label=label)


def _texts(labels: Sequence[object] | None, hover: Sequence[str] | None, count: int) -> list[str]:
    texts = [" ".join(text.split())[:_HOVER] for text in hover] if hover is not None else [""] * count
    if labels is None:
        return [text or f"row {row}" for row, text in enumerate(texts)]
    return [f"{label}: {text}" if text else str(label) for label, text in zip(labels, texts, strict=True)]


def _name(
    picture: Picture,
    axes: Axes,
    points: Points,
    groups: dict[str, NDArray[np.intp]],
    words: Sequence[object] | None,
) -> None:
    """Write words beside points where these are few, else those of groups where their members are by themselves."""
    renderer = picture.settle()
    taken: list[Bbox] = []
    if words is not None and len(points) <= _MOST_NAMED:
        radius = 5 * picture.dpi / 72
        pixels = axes.transData.transform(points)
        taken = [Bbox([[x - radius, y - radius], [x + radius, y + radius]]) for x, y in pixels]
        place(axes, renderer, ((x, y, shorten(word)) for (x, y), word in zip(points, words, strict=True)), taken=taken)
    elif len(groups) <= _MOST_REGIONS:
        hearts = ((*points[_heart(points, rows)], shorten(name)) for name, rows in groups.items())
        place(axes, renderer, hearts, taken=taken, upon=True)


def _heart(points: Points, rows: NDArray[np.intp]) -> int:
    """Give the member with the most neighbours of its own group, of several the one with the nearest neighbours.

    The middle of all members may lie among other groups, or where nothing is.
    """
    count = min(_NEIGHBOURS, len(points) - 1)
    own, spread = [], []
    for some in np.array_split(rows, -(-len(rows) // _AT_ONCE)):
        distances = np.linalg.norm(points[some][:, None] - points, axis=2)
        near = np.argpartition(distances, count, axis=1)[:, : count + 1]
        own.append(np.isin(near, rows).sum(axis=1))
        spread.append(np.take_along_axis(distances, near, axis=1).max(axis=1))
    return int(rows[np.lexsort((np.concatenate(spread), -np.concatenate(own)))[0]])
