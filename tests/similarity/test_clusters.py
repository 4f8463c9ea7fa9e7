"""Test clusters with their central rows, and near duplicates."""

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import similarity
from mlx_qwen_embeddings.errors import MissingExtraError
from mlx_qwen_embeddings.similarity import cluster, near_duplicates


def around(centers: NDArray[np.float64], sizes: list[int], spread: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(5)
    return np.concatenate(
        [center + spread * rng.normal(size=(size, len(center))) for center, size in zip(centers, sizes, strict=True)]
    )


@pytest.fixture(scope="module")
def three() -> NDArray[np.float64]:
    return around(np.eye(3, 8), [10, 40, 20], 0.05)


def test_groups_are_found_and_numbered_by_size(three: NDArray[np.float64]) -> None:
    found = cluster(three, 3)
    assert found.labels.tolist() == [2] * 10 + [0] * 40 + [1] * 20
    assert found.sizes == (40, 20, 10)
    assert found.labels.dtype == np.int64


def test_central_rows_are_the_nearest_to_the_centre_of_their_group(three: NDArray[np.float64]) -> None:
    found = cluster(three, 3, central=4)
    unit = three / np.linalg.norm(three, axis=1, keepdims=True)
    for group, rows in enumerate(found.central):
        members = np.flatnonzero(found.labels == group)
        center = unit[members].mean(axis=0)
        expected = members[np.argsort(-(unit[members] @ center))][:4]
        assert rows.tolist() == expected.tolist()
        assert found.centers[group] == pytest.approx(center / np.linalg.norm(center), abs=1e-6)


def test_the_length_of_vectors_does_not_matter(three: NDArray[np.float64]) -> None:
    scaled = three * np.linspace(0.01, 100, len(three))[:, None]
    assert cluster(scaled, 3).labels.tolist() == cluster(three, 3).labels.tolist()


def test_a_small_group_lists_all_its_rows() -> None:
    found = cluster([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], 2, central=5)
    assert sorted(found.central[0].tolist()) == [0, 1]
    assert found.central[1].tolist() == [2]


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_is_checked(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} groups of 3 vectors: choose 1 to 3"):
        cluster(np.eye(3), k)


def test_more_groups_than_different_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="only 2 of the vectors differ: choose 1 to 2"):
        cluster([[1, 0], [1, 0], [0, 1]], 3)


def test_a_single_vector_or_a_zero_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(n, d\)"):
        cluster([1.0, 0.0], 1)
    with pytest.raises(ValueError, match=r"row 1 .* is a zero vector"):
        near_duplicates([[1, 0], [0, 0]])


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"'sklearn'.*mlx-qwen-embeddings\[notebooks\]"):
        cluster(np.eye(3), 2)


def test_near_duplicates_are_all_pairs_above_the_threshold_closest_first() -> None:
    vectors = np.random.default_rng(3).normal(size=(1500, 4))  # more than a block
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T
    expected = {(i, j) for i, j in zip(*np.nonzero(np.triu(scores >= 0.999, 1)), strict=True)}
    found = near_duplicates(vectors, 0.999)
    assert {(pair.first, pair.second) for pair in found} == expected
    assert len(found) == len(expected) > 10
    assert any(pair.first < 1024 <= pair.second for pair in found)
    assert [pair.score for pair in found] == sorted((pair.score for pair in found), reverse=True)
    assert found[0].score == pytest.approx(scores[found[0].first, found[0].second], abs=1e-6)


def test_equal_rows_are_pairs_but_no_row_is_paired_with_itself() -> None:
    assert [(pair.first, pair.second) for pair in near_duplicates([[1, 0], [0, 1], [2, 0], [1, 0]], 0.999)] == [
        (0, 2),
        (0, 3),
        (2, 3),
    ]


def test_a_threshold_that_is_not_a_cosine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold=95 is not a cosine"):
        near_duplicates(np.eye(2), 95)


def test_clustering_is_public() -> None:
    assert {"cluster", "near_duplicates", "Clusters", "Pair"} <= set(similarity.__all__)


def test_k_means_uses_one_openmp_thread(monkeypatch: pytest.MonkeyPatch, three: NDArray[np.float64]) -> None:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_info

    seen: list[int] = []
    fit = KMeans.fit_predict

    def watched(*arguments: object) -> object:
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp")
        return fit(*arguments)

    monkeypatch.setattr(KMeans, "fit_predict", watched)
    cluster(three, 3)
    assert seen
    assert set(seen) == {1}
