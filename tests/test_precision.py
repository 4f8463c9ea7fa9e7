"""Quantised vectors: the arithmetic of sentence-transformers, restoring, and refusals."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings.options import PRECISIONS
from mlx_qwen_embeddings.precision import (
    load_ranges,
    quantize,
    restore,
    save_ranges,
    unit_ranges,
    value_ranges,
)

VECTORS = np.random.default_rng(7).normal(size=(50, 24)).astype(np.float32)


def reference(vectors: NDArray[np.float32], precision: str, ranges: NDArray[np.float32] | None) -> NDArray[np.generic]:
    """Compute what sentence-transformers' quantize_embeddings returns, number by number."""
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
def test_the_numbers_equal_those_of_sentence_transformers(precision: str, columns: int, *, given: bool) -> None:
    vectors = VECTORS[:, :columns]
    ranges = np.stack([np.full(columns, -1), np.full(columns, 1.5)]).astype(np.float32) if given else None
    found = quantize(vectors, precision, ranges)  # type: ignore[arg-type]
    assert found.dtype == (np.int8 if precision in {"int8", "binary"} else np.uint8)
    np.testing.assert_array_equal(found, reference(vectors, precision, ranges))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_single_vector_is_quantised_as_among_others(precision: str) -> None:
    ranges = value_ranges(VECTORS)
    together = quantize(VECTORS, precision, ranges)  # type: ignore[arg-type]
    np.testing.assert_array_equal(quantize(VECTORS[3], precision, ranges), together[3])  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "columns"), [("float16", 24), ("int8", 24), ("uint8", 24), ("ubinary", 3)])
def test_no_vectors_return_an_empty_array_of_the_right_width(precision: str, columns: int) -> None:
    assert quantize(VECTORS[:0], precision).shape == (0, columns)  # type: ignore[arg-type]


def test_float16_rounds_and_float32_is_unchanged() -> None:
    assert quantize(VECTORS, "float32") is VECTORS
    half = quantize(VECTORS, "float16")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, VECTORS, rtol=2**-11)


def test_a_constant_dimension_is_not_divided_by_zero() -> None:
    flat = VECTORS.copy()
    flat[:, 0] = 0.5
    assert quantize(flat, "uint8")[:, 0].tolist() == [0] * 50


def test_fixed_ranges_keep_the_angles_of_unit_vectors() -> None:
    wide = np.random.default_rng(3).normal(size=(200, 384))
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    ranges = unit_ranges(384)
    assert np.abs(unit).max() < ranges[1, 0] <= 1
    signed, unsigned = quantize(unit, "int8", ranges).astype(np.int64), quantize(unit, "uint8", ranges)
    cosines = (signed * unit).sum(axis=1) / np.linalg.norm(signed, axis=1)
    assert cosines.min() > 0.9998
    assert abs(signed.mean()) < 0.2
    np.testing.assert_array_equal(unsigned, signed + 128)
    assert quantize(np.eye(4), "int8", unit_ranges(4)).tolist() == (np.eye(4) * 127).tolist()


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_restored_values_are_within_half_a_step(precision: str) -> None:
    ranges = value_ranges(VECTORS)
    step = (ranges[1] - ranges[0]) / 255
    found = restore(quantize(VECTORS, precision, ranges), precision, ranges=ranges)  # type: ignore[arg-type]
    assert found.dtype == np.float32
    inside = ranges[1] > VECTORS  # the highest value has a step to itself
    assert (np.abs(found - VECTORS) / step)[inside].max() < 0.5 + 1e-3
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    fixed = unit_ranges(24)
    found = restore(quantize(unit, precision, fixed), precision)  # type: ignore[arg-type]
    assert np.abs(found - unit).max() < 0.5001 * (fixed[1, 0] - fixed[0, 0]) / 255


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_restored_to_signs(precision: str) -> None:
    bits = quantize(VECTORS[:, :21], precision)  # type: ignore[arg-type]
    signs = np.where(VECTORS[:, :21] > 0, 1, -1)
    np.testing.assert_array_equal(restore(bits, precision, dimensions=21), signs)  # type: ignore[arg-type]
    np.testing.assert_array_equal(restore(bits[4], precision, dimensions=21), signs[4])  # type: ignore[arg-type]
    assert restore(bits, precision).shape == (50, 24)  # type: ignore[arg-type]


def test_half_precision_is_restored_unchanged() -> None:
    np.testing.assert_array_equal(restore(VECTORS.astype(np.float16), "float16"), VECTORS.astype(np.float16))


def test_saved_ranges_are_loaded_unchanged(tmp_path: Path) -> None:
    ranges = value_ranges(VECTORS)
    save_ranges(tmp_path / "ranges.json", ranges)
    np.testing.assert_array_equal(load_ranges(tmp_path / "ranges.json"), ranges)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"lowest": [1], "highest": [1, 2]}', '{"lowest": 1, "highest": "a"}'])
def test_a_file_without_ranges_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(ValueError, match=r"wrong\.json holds no ranges: save_ranges"):
        load_ranges(tmp_path / "wrong.json")


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
def test_invalid_input_is_refused(
    vectors: NDArray[np.float32], precision: str, ranges: NDArray[np.float32] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(vectors, precision, ranges)  # type: ignore[arg-type]
