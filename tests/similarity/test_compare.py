"""Compare with references: scalar loops over Python floats, summed exactly by ``math.fsum``."""

import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mlx_qwen_embeddings import similarity
from mlx_qwen_embeddings.similarity import METRICS, Metric, cosine, dot, euclidean, manhattan, normalize, top_k
from mlx_qwen_embeddings.similarity import truncate_dimensions as truncate

ALL: tuple[Metric, ...] = ("cosine", "dot", "euclidean", "manhattan")
Floats = NDArray[np.float32]


def fsum_dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


REFERENCES: dict[Metric, Callable[[Sequence[float], Sequence[float]], float]] = {
    "cosine": lambda a, b: fsum_dot(a, b) / math.sqrt(fsum_dot(a, a)) / math.sqrt(fsum_dot(b, b)),
    "dot": fsum_dot,
    "euclidean": math.dist,
    "manhattan": lambda a, b: math.fsum(abs(x - y) for x, y in zip(a, b, strict=True)),
}


def reference(a: Any, b: Any, metric: Metric) -> NDArray[np.float64]:
    rows, columns = np.asarray(a, float).tolist(), np.asarray(b, float).tolist()
    return np.array([[REFERENCES[metric](row, column) for column in columns] for row in rows])


def reference_ranking(scores: NDArray[Any], metric: Metric) -> list[list[int]]:
    sign = -1 if metric in {"cosine", "dot"} else 1
    return [sorted(range(len(row)), key=lambda j: (sign * row[j], j)) for row in scores.tolist()]


def vectors(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


# Comparing


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (3, 5, 7), (2, 300, 33), (300, 2, 33), (7, 3, 1024)])
def test_matrix_equals_the_exact_sum(metric: Metric, n: int, m: int, d: int) -> None:
    a, b = vectors(n, d), vectors(m, d, seed=1)
    scores = METRICS[metric](a, b)
    assert scores.shape == (n, m)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reference(a, b, metric), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "expected"), [(cosine, 0.96), (dot, 24.0), (euclidean, math.sqrt(2)), (manhattan, 2.0)]
)
def test_pair_is_a_python_float_in_full_precision(function: Callable[..., Any], expected: float) -> None:
    score = function([3.0, 4.0], [4.0, 3.0])
    assert type(score) is float
    assert score == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("metric", ALL)
def test_all_shapes_give_the_same_scores(metric: Metric) -> None:
    compare = METRICS[metric]
    a, b = vectors(4, 16), vectors(6, 16, seed=1)
    matrix = compare(a, b)
    np.testing.assert_allclose([compare(row, b) for row in a], matrix, rtol=2e-7)
    np.testing.assert_allclose([compare(a, row) for row in b], matrix.T, rtol=2e-7)
    np.testing.assert_allclose([[compare(x, y) for y in b] for x in a], matrix, rtol=2e-7)
    np.testing.assert_allclose(compare(b, a), matrix.T, rtol=2e-7)
    assert compare(a[0], b).shape == (6,)
    assert compare(a, b[0]).shape == (4,)
    assert compare(a[0], b).dtype == compare(a, b[0]).dtype == np.float32


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("convert", [np.int64, np.uint8, np.float16, np.float64, np.ndarray.tolist, np.asfortranarray])
def test_number_type_and_memory_layout_do_not_matter(metric: Metric, convert: Callable[..., Any]) -> None:
    a, b = np.arange(1, 13).reshape(3, 4), np.arange(24, 4, -1).reshape(5, 4)
    expected = METRICS[metric](a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_array_equal(METRICS[metric](convert(a), convert(b)), expected)


def test_list_of_arrays_is_a_matrix() -> None:
    a = vectors(3, 8)
    np.testing.assert_array_equal(dot(list(a), a[::-1]), dot(a, a)[:, ::-1])


def test_inputs_are_not_changed() -> None:
    a, b = np.array([[3.0, 4.0], [1e200, 0.0]]), np.array([[0.0, 2.0], [1.0, 1.0]])
    kept = a.copy(), b.copy()
    for array in (a, b):
        array.flags.writeable = False
    cosine(a, b)
    normalize(a)
    truncate(a, 1)
    for metric in ALL:
        METRICS[metric](b, b)
        top_k(b, b, 1, metric)
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])


@given(hnp.arrays(np.float32, (4, 5), elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_cosine_stays_within_one(a: Floats) -> None:
    a[~a.any(axis=1)] = 1.0
    scores = cosine(a, a)
    assert np.abs(scores).max() <= 1.0
    np.testing.assert_allclose(np.diag(scores), 1.0, rtol=1e-7)
    assert all(-1.0 <= cosine(x, y) <= 1.0 for x in a for y in a)


def test_cosine_of_equal_direction_never_exceeds_one() -> None:
    a = vectors(200, 96)
    assert cosine(a, 7 * a).max() == 1.0
    assert cosine(a, -a).min() == -1.0
    assert max(cosine(row, row) for row in a) <= 1.0


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e307])
def test_cosine_is_right_where_squares_overflow_or_underflow(scale: float) -> None:
    a = np.array([3.0, 4.0]) * scale
    assert cosine(a, [4.0, 3.0]) == pytest.approx(0.96, rel=1e-3 if scale < 1e-300 else 1e-14)
    np.testing.assert_allclose(normalize(a), [0.6, 0.8], rtol=1e-3 if scale < 1e-300 else 1e-7)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9, 1e-12])
def test_euclidean_is_accurate_for_nearly_equal_vectors(offset: float, step: float) -> None:
    a = vectors(5, 64).astype(np.float64) + offset
    b = a + step * vectors(5, 64, seed=1)
    np.testing.assert_allclose(euclidean(a, b), reference(a, b, "euclidean"), rtol=1e-7)
    assert euclidean(a[0], b[0]) == pytest.approx(math.dist(a[0].tolist(), b[0].tolist()), rel=1e-10)


def test_euclidean_measures_a_difference_of_one_ulp() -> None:
    a = normalize(vectors(64))
    b = a.copy()
    b[3] = np.nextafter(b[3], np.float32(2))
    assert euclidean(a, b) == pytest.approx(float(b[3]) - float(a[3]), rel=1e-6)
    assert euclidean(a, a) == 0.0
    np.testing.assert_array_equal(np.diag(euclidean([a, b], [a, b])), 0.0)


@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.float32, (2, 4), elements=st.floats(-1e6, 1e6, width=32)),
)
def test_distances_equal_the_exact_sum_for_any_values(a: Floats, b: Floats) -> None:
    for metric in ("euclidean", "manhattan"):
        np.testing.assert_allclose(METRICS[metric](a, b), reference(a, b, metric), rtol=2e-7, atol=1e-40)


# Normalising and shortening


def test_normalize_keeps_the_direction_and_scales_to_length_one() -> None:
    a = vectors(300, 50) * np.float32(9)
    unit = normalize(a)
    assert unit.dtype == np.float32
    expected = [[x / math.sqrt(fsum_dot(row, row)) for x in row] for row in a.tolist()]
    np.testing.assert_allclose(unit, expected, rtol=1e-7)
    np.testing.assert_array_equal(normalize(a[0]), unit[0])
    np.testing.assert_array_equal(normalize([3, 4]), np.array([0.6, 0.8], np.float32))


@pytest.mark.parametrize("dimensions", [1, 3, np.int64(8)])
def test_truncate_cuts_then_normalizes(dimensions: int) -> None:
    a = vectors(5, 8)
    expected = [[x / math.hypot(*row[:dimensions]) for x in row[:dimensions]] for row in a.tolist()]
    np.testing.assert_allclose(truncate(a, dimensions), expected, rtol=1e-7)
    np.testing.assert_array_equal(truncate(a[1], dimensions), truncate(a, dimensions)[1])
    assert truncate(a, dimensions).dtype == np.float32


@pytest.mark.parametrize("dimensions", [0, -1, 9, True, 2.0, "2", None])
def test_truncate_refuses_other_dimensions(dimensions: Any) -> None:
    message = r"dimensions=9 .*choose 1 to 8" if dimensions == 9 else "dimensions must be an integer of at least 1"
    for a in (vectors(2, 8), vectors(8)):
        with pytest.raises(ValueError, match=message):
            truncate(a, dimensions)


def test_truncate_names_the_row_that_becomes_zero() -> None:
    with pytest.raises(ValueError, match="row 1 of vectors is a zero vector"):
        truncate([[1, 0, 0], [0, 0, 1]], 2)


# Searching


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("k", [1, 5, 599, 600, 10_000])
def test_top_k_equals_a_full_sort(metric: Metric, k: int) -> None:
    queries, documents = vectors(3, 16), vectors(600, 16, seed=1)
    exact = reference(queries, documents, metric)
    scores, indices = top_k(queries, documents, k, metric, block_size=256)
    assert scores.dtype == np.float32
    assert indices.dtype == np.int64
    assert indices.tolist() == [row[:k] for row in reference_ranking(exact.astype(np.float32), metric)]
    np.testing.assert_allclose(scores, np.take_along_axis(exact, indices, axis=1), rtol=1e-7, atol=1e-12)
    np.testing.assert_array_equal(scores, np.take_along_axis(METRICS[metric](queries, documents), indices, axis=1))


@settings(max_examples=50)
@given(
    documents=hnp.arrays(np.int8, st.tuples(st.integers(1, 40), st.just(3)), elements=st.integers(-1, 1)),
    copies=st.integers(1, 30),
    k=st.integers(1, 50),
    metric=st.sampled_from(["dot", "euclidean", "manhattan"]),
    block_size=st.integers(1, 600),
)
def test_ties_go_to_the_lower_row(
    documents: NDArray[np.int8], copies: int, k: int, metric: Metric, block_size: int
) -> None:
    documents = np.tile(documents, (copies, 1))
    queries = [[1, 1, 0], [0, 0, 0]]
    scores = METRICS[metric](queries, documents)
    _, indices = top_k(queries, documents, k, metric, block_size)
    assert indices.tolist() == [row[:k] for row in reference_ranking(scores, metric)]


@pytest.mark.parametrize("metric", ALL)
def test_copies_of_a_document_are_found_in_order(metric: Metric) -> None:
    documents = np.tile(vectors(50, 96), (20, 1))
    _, indices = top_k(documents[7], documents, 20, metric, block_size=256)
    assert indices.tolist() == list(range(7, 1000, 50))


def test_zero_and_minus_zero_tie() -> None:
    assert top_k([1.0, 0.0], [[-0.0, 1.0], [0.0, -1.0], [-0.0, 2.0]], 2, "dot")[1].tolist() == [0, 1]


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("k", [3, 700])
@pytest.mark.parametrize("n", [1, 300])
def test_block_size_never_changes_a_bit(metric: Metric, k: int, n: int) -> None:
    # Every dot product is 0 except for rounding errors, so another order of summation would show.
    query_half, document_half = vectors(n, 99), vectors(1100, 99, seed=1)
    queries, documents = np.hstack([query_half, -query_half]), np.hstack([document_half, document_half])
    whole = top_k(queries, documents, k, metric, block_size=10**9)
    for block_size in (1, 256, 300, 1023):
        part = top_k(queries, documents, k, metric, block_size)
        np.testing.assert_array_equal(part[0], whole[0])
        np.testing.assert_array_equal(part[1], whole[1])


def test_one_query_returns_one_row() -> None:
    documents = vectors(20, 4)
    scores, indices = top_k(documents[13].tolist(), documents.tolist(), k=3)
    assert scores.shape == indices.shape == (3,)
    assert indices[0] == 13
    assert scores[0] == 1.0


def test_memory_map_is_read_in_blocks(tmp_path: Path) -> None:
    rows = 40_000
    stored = np.memmap(tmp_path / "vectors.f32", np.float32, "w+", shape=(rows, 64))
    stored[:] = vectors(rows, 64)
    stored.flush()
    documents = np.memmap(tmp_path / "vectors.f32", np.float32, "r", shape=(rows, 64))
    expected = top_k(stored[[5, 39_999]], np.array(stored), 4)
    queries = np.array(stored[[5, 39_999]])
    del stored
    tracemalloc.start()
    try:
        scores, indices = top_k(queries, documents, 4, block_size=1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert indices[:, 0].tolist() == [5, 39_999]
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_array_equal(scores, expected[0])
    assert peak < documents.nbytes / 5


@pytest.mark.parametrize("compare", [euclidean, manhattan, dot])
def test_memory_beyond_the_result_is_bounded(compare: Callable[..., Any]) -> None:
    a, b = vectors(500, 64), vectors(600, 64, seed=1)
    tracemalloc.start()
    try:
        scores = compare(a, b)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All differences at once would be (500, 600, 64) floats: 77 MB in float32.
    assert peak - scores.nbytes < 4e6


# Nothing to compare


def test_no_documents_give_empty_results() -> None:
    nothing: list[Any] = [[], np.empty((0, 4), np.float32)]
    for documents in nothing:
        scores, indices = top_k(vectors(3, 4), documents)
        assert scores.shape == indices.shape == (3, 0)
        assert scores.dtype == np.float32
        assert indices.dtype == np.int64
        assert top_k(vectors(4), documents)[1].shape == (0,)
    assert top_k([], vectors(7, 4), 5)[0].shape == (0, 5)


def test_empty_lists_compare_to_empty_matrices() -> None:
    for metric in ALL:
        assert METRICS[metric]([], vectors(3, 4)).shape == (0, 3)
        assert METRICS[metric](vectors(4), []).shape == (0,)
        assert METRICS[metric]([], []).shape == (0, 0)
    assert normalize([]).size == 0
    assert truncate(np.empty((0, 8)), 4).shape == (0, 4)


# Errors


@pytest.mark.parametrize("metric", ALL)
def test_mismatched_dimensions_name_both_and_the_remedy(metric: Metric) -> None:
    for a, b in [(vectors(8), vectors(4)), (vectors(2, 8), vectors(3, 4)), (vectors(8), vectors(3, 4))]:
        with pytest.raises(ValueError, match=r"a: 8 dimensions, b: 4\. .*same model.*dimensions=.*\(vectors, 4\)"):
            METRICS[metric](a, b)
    with pytest.raises(ValueError, match="queries: 8 dimensions, documents: 4"):
        top_k(vectors(8), vectors(3, 4), metric=metric)
    with pytest.raises(ValueError, match="queries: 8 dimensions, documents: 4"):
        top_k(vectors(8), np.empty((0, 4)), metric=metric)


def test_zero_vectors_are_named() -> None:
    a = vectors(600, 3)
    a[[431, 500]] = 0
    with pytest.raises(ValueError, match="row 431 of a is a zero vector"):
        cosine(a, a[0])
    with pytest.raises(ValueError, match="row 431 of b is a zero vector"):
        cosine(a[0], a)
    with pytest.raises(ValueError, match="row 431 of vectors is a zero vector"):
        normalize(a)
    with pytest.raises(ValueError, match="row 431 of documents is a zero vector"):
        top_k(a[0], a, block_size=1)
    with pytest.raises(ValueError, match="row 431 of queries is a zero vector"):
        top_k(a, a[:9])
    assert dot(a, a[0])[431] == 0.0
    assert euclidean(a, a[431])[431] == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    a = vectors(300, 3)
    a[299, 1] = value
    for metric in ALL:
        with pytest.raises(ValueError, match="row 299 of b is not finite"):
            METRICS[metric](a[0], a)
        with pytest.raises(ValueError, match="row 299 of documents is not finite"):
            top_k(a[0], a, metric=metric)
    with pytest.raises(ValueError, match="row 299 of vectors is not finite"):
        normalize(a)
    with pytest.raises(ValueError, match="row 0 of vectors is not finite"):
        normalize(a[299])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (1.0, r"shape \(d,\) or \(n, d\)"),
        (np.ones((2, 2, 2)), r"not \(2, 2, 2\)"),
        (np.ones((2, 0)), r"d > 0, not \(2, 0\)"),
        ([[1.0, 2.0], [1.0]], "differ in length"),
        (["a text", "another"], "pass vectors, not texts"),
        (np.ones(2, complex), "real numbers, not complex128"),
        ([1.0, None], "real numbers, not object"),
    ],
)
def test_anything_but_vectors_is_refused(wrong: Any, message: str) -> None:
    for metric in ALL:
        with pytest.raises(ValueError, match=message):
            METRICS[metric](wrong, [1.0, 2.0])
    for function in (normalize, lambda a: truncate(a, 1), lambda a: top_k(a, [[1.0, 2.0]])):
        with pytest.raises(ValueError, match=message):
            function(wrong)


def test_search_arguments_are_checked() -> None:
    a: Any = vectors(3, 4)
    with pytest.raises(ValueError, match="unknown metric 'l2': choose one of cosine, dot, euclidean, manhattan"):
        top_k(a, a, metric="l2")  # type: ignore[arg-type]
    for k in (0, -1, True, 1.5, "3"):
        with pytest.raises(ValueError, match="k must be an integer of at least 1"):
            top_k(a, a, k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="block_size must be an integer of at least 1, not 0"):
        top_k(a, a, block_size=0)
    with pytest.raises(ValueError, match=r"documents must have two axes, not shape \(4,\)"):
        top_k(a, a[0])


def test_metrics_are_the_public_functions() -> None:
    assert list(METRICS) == list(ALL)
    for name, function in METRICS.items():
        assert function is getattr(similarity, name)


def test_importing_needs_numpy_only() -> None:
    code = (
        "import sys; import mlx_qwen_embeddings.similarity; "
        "print(sorted({'mlx', 'pydantic', 'tokenizers', 'huggingface_hub', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("metric", ["dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("size", [3e38, 1e300])
def test_numbers_too_large_to_compare_are_an_error(metric: str, size: float) -> None:
    huge = [[size, size], [-size, size]]
    with pytest.raises(ValueError, match=f"a and b hold numbers too large for the metric '{metric}'"):
        getattr(similarity, metric)(huge, [[size, -size]])
    np.testing.assert_allclose(cosine(huge, huge), np.eye(2), atol=1e-6)
