"""Answers as bytes: numbers are written by compiled code, and off the event loop when they are many."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import Response
from numpy.typing import NDArray
from pydantic_core import to_json

MANY_NUMBERS = 50_000
"""Writing these takes some ten milliseconds, for which no other request should wait."""


async def answer(make: Callable[[], dict[str, Any]], numbers: int) -> Response:
    """Give the JSON of what ``make`` makes.

    Args:
        make: Called on another thread when there are many numbers.
        numbers: How many the answer holds.
    """
    content = await asyncio.to_thread(_write, make) if numbers > MANY_NUMBERS else _write(make)
    return Response(content, media_type="application/json")


def _write(make: Callable[[], dict[str, Any]]) -> bytes:
    return to_json(make())


def encoded(vectors: NDArray[Any], form: str) -> list[Any]:
    """Give each vector as numbers, or as base64 of float32, little-endian: what OpenAI's clients read."""
    if form == "base64":
        return [base64.b64encode(row.tobytes()).decode() for row in np.ascontiguousarray(vectors, dtype="<f4")]
    rows: list[Any] = vectors.tolist()
    return rows
