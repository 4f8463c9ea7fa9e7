"""Answers as bytes: numbers are written by compiled code, and off the event loop when they are many."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import Response
from numpy.typing import NDArray
from pydantic_core import to_json

from mlx_qwen_embeddings.server.errors import ApiError

MANY_NUMBERS = 50_000
"""Writing these takes some ten milliseconds, for which no other request should wait."""


async def answer(make: Callable[[], dict[str, Any]], numbers: int) -> Response:
    """Give the JSON of what ``make`` makes.

    Args:
        make: Called on another thread when there are many numbers.
        numbers: How many the answer holds.

    Raises:
        ApiError: With status 500 when one of them is NaN or infinite.
    """
    content = await asyncio.to_thread(_write, make) if numbers > MANY_NUMBERS else _write(make)
    return Response(content, media_type="application/json")


def _write(make: Callable[[], dict[str, Any]]) -> bytes:
    content = to_json(make(), inf_nan_mode="constants")
    if b"NaN" in content or b"Infinity" in content:
        json.loads(content, parse_constant=_refuse)  # in a string, such as a model's name, they are words
    return content


def _refuse(number: str) -> None:
    message = f"the answer holds {number}, which JSON has no number for: the model's weights may be broken"
    raise ApiError(500, message, "non_finite_embedding")


def encoded(vectors: NDArray[Any], form: str) -> list[Any]:
    """Give each vector as numbers, or as base64 of float32, little-endian: what OpenAI's clients read.

    Raises:
        ApiError: With status 500 when base64 would hide NaN or infinity; numbers are looked at when they are written.
    """
    if form == "base64":
        if not np.isfinite(vectors).all():
            _refuse("NaN or infinity")
        return [base64.b64encode(row.tobytes()).decode() for row in np.ascontiguousarray(vectors, dtype="<f4")]
    rows: list[Any] = vectors.tolist()
    return rows
