"""Quantising real vectors, against sentence-transformers."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers.quantization import quantize_embeddings

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.options import Precision
from mlx_qwen_embeddings.precision import load_ranges, quantize, save_ranges, unit_ranges, value_ranges
from tests.parity.prose import sentences

CALIBRATION, NUMBER = 400, 150

every = pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])


@pytest.fixture(scope="module", params=[384, 100])
def vectors(request: pytest.FixtureRequest) -> NDArray[np.float32]:
    texts = list(islice(dict.fromkeys(sentences()), CALIBRATION + NUMBER))
    with EmbeddingEngine("nano") as engine:
        found: NDArray[np.float32] = engine.embed_documents(texts, dimensions=request.param)
    return found


def same(found: NDArray[Any], expected: Any) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@every
def test_ranges_of_the_vectors_themselves(vectors: NDArray[np.float32], precision: Precision) -> None:
    same(quantize(vectors, precision), quantize_embeddings(vectors, precision))


@every
def test_ranges_of_other_texts_kept_in_a_file(vectors: NDArray[np.float32], precision: Precision, tmp_path: Path) -> None:
    calibration, rest = vectors[:CALIBRATION], vectors[CALIBRATION:]
    save_ranges(tmp_path / "ranges.json", value_ranges(calibration))
    ranges = load_ranges(tmp_path / "ranges.json")
    same(quantize(rest, precision, ranges), quantize_embeddings(rest, precision, calibration_embeddings=calibration))


@every
def test_vectors_quantised_by_the_engine(precision: Precision) -> None:
    texts = list(islice(dict.fromkeys(sentences()), NUMBER))
    with EmbeddingEngine("nano") as engine:
        whole, found = engine.embed_documents(texts), engine.embed_documents(texts, precision=precision)
    same(found, quantize_embeddings(whole, precision, ranges=unit_ranges(384)))
