"""Test plots: every point is drawn, labels never overlap, and colour-blind readers can tell the colours apart."""

import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from mlx_qwen_embeddings import get_engine
from mlx_qwen_embeddings.plot import dimension_curve, embedding_map, similarity_heatmap
from mlx_qwen_embeddings.plot.style import COLORS, GREY, MARKERS, looks, shorten

SAFE = {"#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000"}
"""Okabe and Ito's colours, from their page, without yellow."""


def random_vectors(count: int, dimensions: int = 16, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def renderer(figure: Any) -> Any:
    return figure.canvas.get_renderer()


def words_of(figure: Figure) -> list[Annotation]:
    return [child for child in figure.axes[0].get_children() if isinstance(child, Annotation)]


def boxes(figure: Figure, words: list[Any]) -> list[Bbox]:
    figure.draw_without_rendering()
    with_renderer = renderer(figure)
    return [Text.get_window_extent(word, with_renderer) for word in words]


def overlapping(found: list[Bbox]) -> int:
    return sum(bool(a.overlaps(b)) for a, b in itertools.combinations(found, 2))


def points(figure: Figure) -> int:
    return sum(len(np.asarray(collection.get_offsets())) for collection in figure.axes[0].collections)


def test_the_palette_is_okabe_and_itos_and_styles_do_not_repeat() -> None:
    assert {color.lower() for color in COLORS} == SAFE
    assert len(set(looks(len(COLORS) * len(MARKERS)))) == 42


def test_labels_are_one_short_line_without_formulas() -> None:
    assert shorten("a\n b   c") == "a b c"
    assert shorten("x" * 50) == "x" * 27 + "…"
    assert shorten("$5 and $6") == r"\$5 and \$6"


@pytest.mark.parametrize("count", [1, 2, 5, 29])
def test_a_map_of_few_points_labels_them_without_overlap(count: int) -> None:
    texts = [f"text number {row} that goes on for rather long" for row in range(count)]
    picture = embedding_map(random_vectors(count), [row % 3 for row in range(count)], texts)
    words = words_of(picture)
    assert points(picture) == count
    assert overlapping(boxes(picture, words)) == 0
    assert 0 < len(words) <= count
    assert all(len(word.get_text()) <= 28 for word in words)
    if count <= 5:
        assert {word.get_text() for word in words} == {shorten(text) for text in texts}


def test_labels_of_coinciding_points_do_not_overlap() -> None:
    picture = embedding_map(np.ones((30, 2)), texts=["the same long words"] * 30)
    words = words_of(picture)
    assert len(words) > 1
    assert overlapping(boxes(picture, words)) == 0


def test_labels_do_not_cover_points() -> None:
    given = random_vectors(20)
    picture = embedding_map(given, texts=[f"words {row}" for row in range(20)])
    at = picture.axes[0].transData.transform(picture.axes[0].collections[0].get_offsets())
    for box in boxes(picture, words_of(picture)):
        assert not any(box.contains(x, y) for x, y in at)


def test_a_map_of_5000_points_names_its_groups() -> None:
    groups = np.arange(5000) % 8
    given = random_vectors(5000) + 4 * np.eye(8, 16)[groups]
    picture = embedding_map(given, [f"group {group}" for group in groups], title="many")
    assert points(picture) == 5000
    assert len(picture.axes[0].collections) == 8
    assert words_of(picture) == []
    legend = picture.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [f"group {group}" for group in range(8)]
    picture.draw_without_rendering()
    inside = picture.axes[0].get_window_extent(renderer(picture))
    assert not legend.get_window_extent(renderer(picture)).overlaps(inside)


def test_a_picture_is_a_figure_that_a_notebook_shows_as_a_png() -> None:
    picture = embedding_map(random_vectors(5))
    assert isinstance(picture, Figure)
    assert picture._repr_png_().startswith(b"\x89PNG")


def test_all_colours_are_safe_and_small_groups_share_grey() -> None:
    labels = [*range(40), *range(25), *range(20)]
    picture = embedding_map(random_vectors(85), labels)
    collections = picture.axes[0].collections
    assert points(picture) == 85
    colors = [to_hex(np.asarray(collection.get_facecolor())[0]) for collection in collections]
    assert len(colors) == 21
    assert set(colors[:-1]) <= SAFE
    assert colors[-1] == GREY
    texts = [text.get_text() for text in picture.legends[0].get_texts()]
    assert texts == [*map(str, range(20)), "20 others"]
    assert overlapping(boxes(picture, picture.legends[0].get_texts())) == 0
    assert words_of(picture) == []


def test_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    given = random_vectors(50) * np.arange(1, 17)
    picture = embedding_map(given)
    found = np.asarray(picture.axes[0].collections[0].get_offsets())
    centered = given - given.mean(axis=0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    assert np.abs(found) == pytest.approx(np.abs((u * s)[:, :2]), abs=1e-3)
    share = s[0] ** 2 / (s**2).sum()
    assert picture.axes[0].get_xlabel() == f"1st component, {share:.0%} of variance"


def test_two_columns_are_points_already() -> None:
    given = random_vectors(40, 2)
    picture = embedding_map(given)
    assert np.asarray(picture.axes[0].collections[0].get_offsets()) == pytest.approx(given, abs=1e-6)
    assert picture.axes[0].get_xlabel() == ""


def test_t_sne_keeps_groups_apart() -> None:
    groups = np.repeat([0, 1, 2], 15)
    given = random_vectors(45) + 20 * np.eye(3, 16)[groups]
    picture = embedding_map(given, groups.tolist(), method="tsne")
    middles = [np.asarray(part.get_offsets()).mean(axis=0) for part in picture.axes[0].collections]
    spread = max(np.asarray(part.get_offsets()).std() for part in picture.axes[0].collections)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(middles, 2)) > spread


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((np.eye(3), ["a"]), "labels has 1 entries for 3 vectors"),
        ((np.eye(3), None, ["a"] * 4), "texts has 4 entries for 3 vectors"),
        ((np.ones(3),), r"shape \(n, d\)"),
        ((np.full((2, 2), np.nan),), "finite"),
    ],
)
def test_a_map_checks_its_arguments(arguments: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        embedding_map(*arguments)
    with pytest.raises(ValueError, match=r"'umap'.*shape"):
        embedding_map(np.eye(3), method="umap")  # type: ignore[arg-type]


def test_a_heat_map_shows_the_cosines_of_texts() -> None:
    texts = ["Swallows leave in autumn.", "Birds fly south.", "The stew takes three hours."]
    picture = similarity_heatmap(texts, model="nano")
    vectors = get_engine("nano").embed_documents(texts)
    shown = np.asarray(picture.axes[0].images[0].get_array())
    assert shown == pytest.approx(vectors @ vectors.T, abs=1e-5)
    assert [label.get_text() for label in picture.axes[0].get_yticklabels()] == [
        "Swallows leave in autumn.",
        "Birds fly south.",
        "The stew takes three hours.",
    ]
    assert [text.get_text() for text in picture.axes[0].texts][:2] == ["1.00", f"{vectors[0] @ vectors[1]:.2f}"]
    assert picture.axes[0].images[0].get_cmap().name == "viridis"


def test_a_heat_map_of_queries_and_documents() -> None:
    picture = similarity_heatmap(["Where do birds go?"], ["Birds fly south.", "Stew."], model="nano")
    engine = get_engine("nano")
    expected = engine.embed_queries(["Where do birds go?"]) @ engine.embed_documents(["Birds fly south.", "Stew."]).T
    assert np.asarray(picture.axes[0].images[0].get_array()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [1, 12, 40, 90])
def test_labels_of_a_heat_map_do_not_overlap(count: int) -> None:
    names = [f"{row} a text that is longer than its label may be" for row in range(count)]
    picture = similarity_heatmap(random_vectors(count), labels=names)
    axes = picture.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        shown = [label for label in labels if label.get_text()]
        assert overlapping(boxes(picture, shown)) == 0
        assert len(shown) == count if count <= 40 else 20 <= len(shown) <= 40
        assert all(len(label.get_text()) <= 28 for label in shown)
    assert bool(axes.texts) == (count <= 12)
    assert overlapping(boxes(picture, list(axes.texts))) == 0
    figure = picture.get_window_extent()
    assert all(figure.x0 <= box.x0 and figure.y0 <= box.y0 for box in boxes(picture, list(axes.get_xticklabels())))


def test_neighbours_with_the_same_label_share_it() -> None:
    names = ["birds"] * 60 + ["cooking"] * 30 + ["fog"] + ["law"] * 59
    axes = similarity_heatmap(random_vectors(150), labels=names).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["birds", "cooking", "fog", "law"]
    assert axes.get_yticks() == pytest.approx([29.5, 74.5, 90, 120])
    few = similarity_heatmap(random_vectors(5), labels=["a", "a", "b", "a", "a"]).axes[0]
    assert [label.get_text() for label in few.get_xticklabels()] == ["a", "b", "a"]
    assert few.get_xticks() == pytest.approx([0.5, 2, 3.5])


def test_a_label_too_close_to_the_previous_one_is_left_out() -> None:
    names = ["birds"] * 100 + [f"single {row}" for row in range(20)] + ["law"] * 80
    picture = similarity_heatmap(random_vectors(200), labels=names)
    labels = list(picture.axes[0].get_yticklabels())
    assert [label.get_text() for label in labels] == ["birds", "single 0", "single 8", "single 16", "law"]
    assert overlapping(boxes(picture, labels)) == 0


def test_a_heat_map_of_5000_vectors_is_the_mean_of_neighbours() -> None:
    given = random_vectors(5000, 8)
    picture = similarity_heatmap(given)
    shown = np.asarray(picture.axes[0].images[0].get_array())
    assert shown.shape == (385, 385)  # 13 vectors per cell
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    assert shown[0, 1] == pytest.approx((unit[:13] @ unit[13:26].T).mean(), abs=1e-6)
    assert shown[-1, -1] == pytest.approx((unit[4992:] @ unit[4992:].T).mean(), abs=1e-6)
    assert "13 x 13" in picture.axes[1].get_ylabel()


def test_a_heat_map_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="rows have 3 dimensions, columns 2"):
        similarity_heatmap(np.eye(3), np.eye(2))
    with pytest.raises(ValueError, match="column_labels has 1 entries for 3 vectors"):
        similarity_heatmap(np.eye(3), np.eye(3), column_labels=["a"])
    with pytest.raises(ValueError, match="n at least 1"):
        similarity_heatmap([])


ROWS = [
    {"dimensions": size, "precision": precision, "bytes": size * bits // 8, "ndcg10": 0.8 + size / 1e4 + bits / 1e3}
    for precision, bits in (("float32", 32), ("int8", 8), ("binary", 1))
    for size in (384, 64, 128)
]


def test_a_curve_has_one_line_per_precision_on_both_axes() -> None:
    picture = dimension_curve(ROWS, title="nano")
    left, right = picture.axes
    assert [line.get_label() for line in left.lines] == ["float32", "int8", "binary"]
    assert {to_hex(line.get_color()) for line in left.lines} <= SAFE
    assert np.asarray(left.lines[1].get_xdata()).tolist() == [64, 128, 384]
    assert np.asarray(right.lines[1].get_xdata()).tolist() == [64, 128, 384]
    assert np.asarray(right.lines[2].get_xdata()).tolist() == [8, 16, 48]
    assert np.asarray(left.lines[2].get_ydata()) == pytest.approx([0.8074, 0.8138, 0.8394])
    for axes in (left, right):
        assert overlapping(boxes(picture, list(axes.get_xticklabels()))) == 0
    assert [label.get_text() for label in left.get_xticklabels()] == ["64", "128", "384"]


def test_a_curve_of_many_sizes_and_of_one() -> None:
    rows = [{"dimensions": size, "precision": "float32", "bytes": 4 * size, "ndcg10": 0.5} for size in range(32, 4097, 8)]
    picture = dimension_curve(rows)
    assert overlapping(boxes(picture, list(picture.axes[0].get_xticklabels()))) == 0
    assert len(np.asarray(picture.axes[0].lines[0].get_xdata())) == len(rows)
    assert [label.get_text() for label in dimension_curve(rows[:1]).axes[0].get_xticklabels()] == ["32"]


def test_lines_of_one_colour_have_different_line_styles() -> None:
    rows = [{"dimensions": 64, "precision": f"{number}", "bytes": number, "ndcg10": 0.5} for number in range(1, 22)]
    looks = [(line.get_color(), line.get_linestyle()) for line in dimension_curve(rows).axes[0].lines]
    assert len(set(looks)) == 21
    assert [stroke for _, stroke in looks[:8]] == ["-"] * 7 + ["--"]


def test_a_curve_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"rows\[0\] has no bytes, ndcg10"):
        dimension_curve([{"dimensions": 3, "precision": "int8"}])
    with pytest.raises(ValueError, match="no rows"):
        dimension_curve([])
