"""Decide whether the outcome of a request is right."""

import asyncio

import numpy as np

from mlx_qwen_embeddings.errors import EmbeddingFailedError, EmbeddingTimeoutError, EngineBusyError, EngineClosedError
from soak.ledger import Call
from soak.texts import TOLERANCE, Request, Vectors


def judge(call: Call, request: Request, found: Vectors | BaseException, *, may_close: bool = False) -> None:
    """Record the verdict on a request.

    Args:
        call: Where to record it.
        request: The request.
        found: The vectors or the error that came back.
        may_close: Whether the engine may be closed, or its worker die, at any moment.
    """
    if isinstance(found, asyncio.CancelledError):
        call.failed("cancelled")
    elif isinstance(found, EmbeddingTimeoutError) and "timeout" in request.options:
        call.failed("timed out")
    elif isinstance(found, EngineBusyError) and "wait" in request.options:
        call.failed("queue full")
    elif isinstance(found, EngineClosedError) and may_close:
        call.failed("engine closed, or its worker died")
    elif isinstance(found, EngineClosedError) and "forked while a batch ran for over" in str(found):
        call.failed("forked in a batch of over 30 s")
    elif isinstance(found, EmbeddingFailedError) and request.guilty and set(found.failures) == request.guilty:
        call.failed("guilty text")
    elif isinstance(found, BaseException):
        call.wrong(f"{type(found).__name__}: {found}")
    elif request.guilty:
        call.wrong("a text that should have failed got a vector")
    elif is_right(found, request.wanted):
        call.right()
    else:
        call.wrong(f"a vector differs: {request.texts!r:.200} {request.options}")


def is_right(found: Vectors, wanted: Vectors) -> bool:
    """Return whether vectors equal those of the table within float32's accuracy."""
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max(initial=0) <= TOLERANCE)
