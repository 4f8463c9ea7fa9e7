"""One embedding request, whatever the endpoint that it came through."""

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import Response
from numpy.typing import NDArray
from pydantic_core import to_json
from starlette.requests import Request

from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.call import Embedded
from mlx_qwen_embeddings.errors import InputTooLongError, InvalidTextError, MLXQwenEmbeddingsError, UnknownModelError
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.server.errors import ApiError
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.settings import ServerSettings

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


IDS_REFUSED = (
    "input holds token ids, which OpenAI's clients take from another vocabulary than this model's. Send text: with "
    "LangChain OpenAIEmbeddings(check_embedding_ctx_length=False). Ids of this model's own tokenizer are taken when the "
    "server runs with allow_token_ids"
)


class Service:
    """Checks a request against the limits, and hands it to the model's engine."""

    def __init__(self, settings: ServerSettings, models: Models) -> None:
        """Keep both."""
        self.settings, self.models = settings, models

    async def embed(
        self,
        texts: Sequence[Any],
        model: str | None,
        role: Role | None,
        options: CallOptions,
        *,
        param: str,
        role_param: str = "role",
    ) -> Embedded:
        """Embed texts, or token ids where the server takes them.

        Args:
            texts: Strings, or lists of ids.
            model: Its name, maybe with a role at the end; None is the default model.
            role: The request's own; None takes that of the name, else "document".
            options: Those of the engine.
            param: The field that holds the texts, for messages.
            role_param: The one that holds the role.

        Raises:
            ApiError: When it cannot be done; it says why.
        """
        ids = any(not isinstance(text, str) for text in texts)
        if ids and not self.settings.allow_token_ids:
            raise ApiError(400, IDS_REFUSED, "token_ids_refused", param=param)
        if len(texts) > self.settings.max_texts:
            message = f"{param} holds {len(texts)} texts, and this server takes {self.settings.max_texts} a request"
            raise ApiError(400, message, "too_many_texts", param=param)
        try:
            engine, role = await self._find(model, role, role_param)
            options = options | CallOptions(wait=False, timeout=self.settings.request_timeout)
            return await engine.aembed(texts, role, token_ids=ids, **options)
        except (MLXQwenEmbeddingsError, ValueError) as error:
            raise ApiError.of(error, param=_at_fault(error, param)) from error

    def name(self, model: str | None) -> str:
        """Give the name of the model that answers a request."""
        return self.models.default if model is None else model

    def note(self, request: Request, model: str | None, texts: int, tokens: int) -> None:
        """Tell the log what a request was about."""
        state = request.state
        state.model, state.texts, state.tokens = self.name(model), texts, tokens

    def dimensions(self, model: str | None) -> int:
        """Give the width of a full vector of a model that has answered."""
        return self.models.engines[self.models.find(self.name(model)).name].dimensions

    async def _find(self, model: str | None, role: Role | None, param: str) -> tuple[EmbeddingEngine, Role]:
        asked = self.models.find(self.name(model))
        if role and asked.role and role != asked.role:
            message = f"the model's name says {asked.role!r} and {param} says {role!r}: leave one out"
            raise ApiError(400, message, "role_conflict", param=param)
        return await self.models.engine(asked), role or asked.role or "document"


def _at_fault(error: Exception, texts: str) -> str | None:
    """Give the field of the request that an error of the engine is about, as far as that is known."""
    if isinstance(error, InputTooLongError | InvalidTextError):
        return texts
    if isinstance(error, UnknownModelError):
        return "model"
    return "dimensions" if str(error).startswith("dimensions=") else None
