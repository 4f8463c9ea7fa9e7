"""Compare searching bits with counting them one by one, and rescoring with a search of full vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings.options import Precision
from mlx_qwen_embeddings.precision import quantize, unit_ranges, value_ranges
from mlx_qwen_embeddings.similarity import rescore, rescoring, top_k, top_k_bits

RNG = np.random.default_rng(11)
DOCUMENTS = RNG.normal(size=(300, 72)).astype(np.float32)
DOCUMENTS /= np.linalg.norm(DOCUMENTS, axis=1, keepdims=True)
QUERIES = DOCUMENTS[:9] + RNG.normal(scale=0.06, size=(9, 72)).astype(np.float32)


def by_hand(queries: NDArray[Any], documents: NDArray[Any], k: int) -> list[list[tuple[int, int]]]:
    def differing(a: NDArray[Any], b: NDArray[Any]) -> int:
        return sum(((int(x) ^ int(y)) & 255).bit_count() for x, y in zip(a, b, strict=True))

    return [sorted((differing(query, one), row) for row, one in enumerate(documents))[:k] for query in queries]


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
@pytest.mark.parametrize("columns", [72, 64, 20])
@pytest.mark.parametrize("tile", [2**22, 700, 1])
def test_fewest_differing_bits(precision: Precision, columns: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescoring, "_TILE", tile)
    queries, documents = quantize(QUERIES[:, :columns], precision), quantize(DOCUMENTS[:, :columns], precision)
    expected = np.array(by_hand(queries, documents, 7))
    distances, rows = top_k_bits(queries, documents, 7)
    np.testing.assert_array_equal(np.stack([distances, rows], axis=-1), expected)
    one = top_k_bits(queries[2], documents, 7)
    np.testing.assert_array_equal(np.stack(one, axis=-1), expected[2])


def test_k_beyond_the_number_of_documents_returns_all() -> None:
    bits = quantize(DOCUMENTS[:3], "ubinary")
    assert top_k_bits(bits, bits, 9)[1].shape == (3, 3)
    assert top_k_bits(bits, bits[:0], 9)[1].shape == (3, 0)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8"])
def test_rescoring_all_candidates_equals_a_full_search(precision: Precision) -> None:
    ranges = unit_ranges(72) if "int" in precision else None
    stored = quantize(DOCUMENTS, precision, ranges)
    candidates = np.array([RNG.permutation(len(DOCUMENTS)) for _ in QUERIES])
    scores, rows = rescore(QUERIES, candidates, stored, 5, precision=precision)
    expected = top_k(QUERIES, DOCUMENTS, 5)
    np.testing.assert_allclose(scores, expected[0], atol=1e-6 if precision == "float32" else 5e-3)
    np.testing.assert_array_equal(rows[:, 0], expected[1][:, 0])
    if precision == "float32":
        np.testing.assert_array_equal(rows, expected[1])


def test_custom_ranges() -> None:
    ranges = value_ranges(DOCUMENTS)
    stored = quantize(DOCUMENTS, "uint8", ranges)
    candidates = np.tile(np.arange(len(DOCUMENTS)), (len(QUERIES), 1))
    scores, rows = rescore(QUERIES, candidates, stored, 5, precision="uint8", ranges=ranges)
    np.testing.assert_allclose(scores, top_k(QUERIES, DOCUMENTS, 5)[0], atol=3e-3)
    assert rows[:, 0].tolist() == list(range(9))


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_searched_bits_are_rescored_with_the_querys_real_numbers(precision: Precision) -> None:
    bits = quantize(DOCUMENTS, precision)
    candidates = top_k_bits(quantize(QUERIES, precision), bits, 40)[1]
    scores, rows = rescore(QUERIES, candidates, bits, 3, precision=precision)
    signs = np.where(DOCUMENTS > 0, 1, -1)
    for query, among, found, score in zip(QUERIES, candidates, rows, scores, strict=True):
        cosines = signs @ query / np.linalg.norm(query) / np.sqrt(72)
        expected = sorted(among, key=lambda row: (-cosines[row].round(6), row))[:3]
        assert found.tolist() == expected
        np.testing.assert_allclose(score, cosines[found], atol=1e-6)


def test_only_the_candidates_of_a_memory_map_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "documents.npy", DOCUMENTS)
    stored = np.load(tmp_path / "documents.npy", mmap_mode="r")

    class Watched(np.memmap[Any, Any]):
        rows: list[int] = []  # noqa: RUF012 - only this test uses it

        def __getitem__(self, rows: Any) -> Any:
            self.rows.extend(rows)
            return super().__getitem__(rows)

    scores, rows = rescore(QUERIES[0], np.array([5, 0, 17]), stored.view(Watched), 2)
    assert Watched.rows == [0, 5, 17]
    assert rows.shape == scores.shape == (2,)
    assert rows[0] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_bits(QUERIES, quantize(DOCUMENTS, "ubinary")), r'queries must be packed bits.*"ubinary"'),
        (lambda: top_k_bits(quantize(QUERIES, "binary"), quantize(DOCUMENTS, "ubinary")), "9 bytes of int8, documents 9"),
        (lambda: top_k_bits(quantize(QUERIES[:, :8], "ubinary"), quantize(DOCUMENTS, "ubinary")), "same dimensions"),
        (lambda: top_k_bits(quantize(QUERIES, "ubinary"), quantize(DOCUMENTS[0], "ubinary")), "two axes"),
        (lambda: top_k_bits(quantize(QUERIES, "ubinary"), quantize(DOCUMENTS, "ubinary"), 0), "k must be an integer"),
        (lambda: rescore(QUERIES, np.zeros((3, 5), int), DOCUMENTS), "one list per query"),
        (lambda: rescore(QUERIES, QUERIES, DOCUMENTS), "must be rows of documents"),
        (
            lambda: rescore(QUERIES[0], [3, -1], DOCUMENTS),
            "hold -1, and rows go from 0 to 299: leave out what a search pads",
        ),
        (lambda: rescore(QUERIES[0], [3, 300], DOCUMENTS), "hold 300, and rows go from 0 to 299"),
        (lambda: rescore(QUERIES[:, :9], np.zeros((9, 5), int), DOCUMENTS), "9 dimensions"),
    ],
)
def test_mismatched_arguments_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
