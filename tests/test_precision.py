"""Fewer bits: the published arithmetic, what can be read back, and what is refused."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings.precision import PRECISIONS, quantize, unit_ranges, value_ranges

VECTORS = np.random.default_rng(7).normal(size=(50, 24)).astype(np.float32)


def reference(vectors: NDArray[np.float32], precision: str, ranges: NDArray[np.float32] | None) -> NDArray[np.generic]:
    """Do as sentence-transformers' quantize_embeddings, number by number."""
    if ranges is None:
        ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    rows = []
    for vector in vectors:
        if precision.endswith("int8"):
            steps = (ranges[1] - ranges[0]) / np.float32(255)
            buckets = [
                int(min(max(np.floor((x - low) / (step or np.float32(1))), 0), 255))
                for x, low, step in zip(vector, ranges[0], steps, strict=True)
            ]
            rows.append([bucket - 128 * (precision == "int8") for bucket in buckets])
        else:
            bits = "".join("1" if x > 0 else "0" for x in vector)
            bits += "0" * (-len(bits) % 8)
            rows.append([int(bits[i : i + 8], 2) - 128 * (precision == "binary") for i in range(0, len(bits), 8)])
    return np.array(rows)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("columns", [24, 21])
@pytest.mark.parametrize("given", [True, False])
def test_the_numbers_are_those_of_sentence_transformers(precision: str, columns: int, *, given: bool) -> None:
    vectors = VECTORS[:, :columns]
    ranges = np.stack([np.full(columns, -1), np.full(columns, 1.5)]).astype(np.float32) if given else None
    found = quantize(vectors, precision, ranges)  # type: ignore[arg-type]
    assert found.dtype == (np.int8 if precision in {"int8", "binary"} else np.uint8)
    np.testing.assert_array_equal(found, reference(vectors, precision, ranges))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_vector_gives_what_it_gives_among_others(precision: str) -> None:
    ranges = value_ranges(VECTORS)
    together = quantize(VECTORS, precision, ranges)  # type: ignore[arg-type]
    np.testing.assert_array_equal(quantize(VECTORS[3], precision, ranges), together[3])  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "columns"), [("float16", 24), ("int8", 24), ("uint8", 24), ("ubinary", 3)])
def test_no_vectors_give_an_empty_array_of_the_right_width(precision: str, columns: int) -> None:
    assert quantize(VECTORS[:0], precision).shape == (0, columns)  # type: ignore[arg-type]


def test_float16_rounds_and_float32_stays() -> None:
    assert quantize(VECTORS, "float32") is VECTORS
    half = quantize(VECTORS, "float16")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, VECTORS, rtol=2**-11)


def test_a_dimension_without_any_spread_is_no_division_by_zero() -> None:
    flat = VECTORS.copy()
    flat[:, 0] = 0.5
    assert quantize(flat, "uint8")[:, 0].tolist() == [0] * 50


def test_fixed_ranges_keep_the_angles_of_unit_vectors() -> None:
    wide = np.random.default_rng(3).normal(size=(200, 384))
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    ranges = unit_ranges(384)
    assert np.abs(unit).max() < ranges[1, 0] <= 1
    back = quantize(unit, "int8", ranges) + 0.5  # the middle of each step
    cosines = (back * unit).sum(axis=1) / np.linalg.norm(back, axis=1)
    assert cosines.min() > 0.9998
    assert unit_ranges(4)[1].tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("vectors", "precision", "ranges", "message"),
    [
        (VECTORS, "int4", None, "unknown precision 'int4': choose one of float32, float16, int8"),
        (VECTORS[0], "int8", None, "one vector does not have: pass ranges="),
        (VECTORS[:1], "uint8", None, "one vector does not have: pass ranges="),
        (VECTORS, "int8", VECTORS[:3], r"shape \(2, 24\), got shape \(3, 24\)"),
        (VECTORS, "int8", np.stack([np.ones(24), -np.ones(24)]), "lowest and the highest"),
        (quantize(VECTORS, "int8"), "int8", None, "not int8: are they quantised already"),
        (np.full(3, np.nan), "binary", None, "NaN or infinity"),
        (VECTORS * 1e6, "float16", None, "normalise the vectors first"),
        (VECTORS[None], "binary", None, r"shape \(d,\) or \(n, d\)"),
    ],
)
def test_what_has_no_answer_is_refused(
    vectors: NDArray[np.float32], precision: str, ranges: NDArray[np.float32] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(vectors, precision, ranges)  # type: ignore[arg-type]
