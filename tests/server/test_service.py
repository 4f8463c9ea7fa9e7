"""Responses as bytes: a number that JSON cannot express is an error, however many numbers there are."""

import json
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings.server.errors import ApiError
from mlx_qwen_embeddings.server.service import MANY_NUMBERS, encode_vectors, json_response

BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("numbers", [1, MANY_NUMBERS + 1])
@pytest.mark.parametrize("bad", BAD)
async def test_a_number_that_is_not_finite_is_a_500(bad: float, numbers: int) -> None:
    with pytest.raises(ApiError) as caught:
        await json_response(lambda: {"embedding": [0.5, bad], "model": "nano"}, numbers)
    assert (caught.value.status, caught.value.code) == (500, "non_finite_embedding")


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
@pytest.mark.parametrize("bad", BAD)
async def test_a_vector_that_is_not_finite_is_a_500_in_either_format(bad: float, encoding_format: str) -> None:
    vectors = np.array([[1, 0], [0, bad]], dtype=np.float32)
    with pytest.raises(ApiError) as caught:
        await json_response(lambda: {"data": encode_vectors(vectors, encoding_format)}, 1)
    assert caught.value.status == 500


async def test_the_words_nan_and_infinity_are_allowed_in_strings() -> None:
    content: dict[str, Any] = {"model": "NaN:Infinity", "embedding": [0.1, -1, 1e-30], "name": None}
    response = await json_response(lambda: content, 1)
    assert json.loads(bytes(response.body)) == content


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8, np.uint8])
def test_base64_takes_all_types_of_numbers(kind: type[np.generic]) -> None:
    assert len(encode_vectors(np.ones((2, 3), dtype=kind), "base64")) == 2
