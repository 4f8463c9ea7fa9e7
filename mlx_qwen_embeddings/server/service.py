"""One embedding request, whichever endpoint it came through, and its response as JSON."""

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

from mlx_qwen_embeddings.engine.call import Embedded
from mlx_qwen_embeddings.errors import InputTooLongError, InvalidTextError, MLXQwenEmbeddingsError, UnknownModelError
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.server.errors import ApiError
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.settings import ServerSettings

MANY_NUMBERS = 50_000
"""Writing this many numbers takes about ten milliseconds, and no other request should wait for that."""


async def json_response(make: Callable[[], dict[str, Any]], numbers: int) -> Response:
    """Return a response with the JSON of what ``make`` returns.

    Args:
        make: Called on another thread when there are many numbers.
        numbers: How many numbers the response holds.

    Raises:
        ApiError: With status 500 when one of them is NaN or infinite.
    """
    content = await asyncio.to_thread(_write, make) if numbers > MANY_NUMBERS else _write(make)
    return Response(content, media_type="application/json")


def _write(make: Callable[[], dict[str, Any]]) -> bytes:
    content = to_json(make(), inf_nan_mode="constants")
    if b"NaN" in content or b"Infinity" in content:
        json.loads(content, parse_constant=_refuse)  # within a string, such as a model's name, they are only words
    return content


def _refuse(number: str) -> None:
    message = f"the response holds {number}, which JSON cannot express: the model's weights may be broken"
    raise ApiError(500, message, "non_finite_embedding")


def encode_vectors(vectors: NDArray[Any], encoding_format: str) -> list[Any]:
    """Return each vector as a list of numbers, or as base64 of little-endian float32, as OpenAI's clients expect it.

    Raises:
        ApiError: With status 500 when base64 would hide NaN or infinity; numbers are checked when they are written.
    """
    if encoding_format == "base64":
        if not np.isfinite(vectors).all():
            _refuse("NaN or infinity")
        return [base64.b64encode(row.tobytes()).decode() for row in np.ascontiguousarray(vectors, dtype="<f4")]
    rows: list[Any] = vectors.tolist()
    return rows


IDS_REFUSED = (
    "input holds token ids, and OpenAI's clients make them with another vocabulary than this model's. Send text: with "
    "LangChain OpenAIEmbeddings(check_embedding_ctx_length=False). Ids of this model's own tokenizer are accepted when the "
    "server runs with allow_token_ids"
)


class Service:
    """Checks a request against the limits, and passes it to the model's engine."""

    def __init__(self, settings: ServerSettings, models: Models) -> None:
        self.settings, self.models = settings, models

    async def embed(
        self,
        request: Request,
        texts: Sequence[Any],
        model: str | None,
        role: Role | None,
        options: CallOptions,
        *,
        param: str,
        role_param: str = "role",
    ) -> Embedded:
        """Embed texts, or token ids where the server accepts them, and note for the log what was embedded.

        Args:
            request: The request that holds them.
            texts: Strings, or lists of ids.
            model: Name, with or without a role at its end; None is the default model.
            role: The request's own role; None takes the one in the name, else "document".
            options: Options for the engine.
            param: Field that holds the texts, for error messages.
            role_param: Field that holds the role, for error messages.

        Raises:
            ApiError: When the texts cannot be embedded.
        """
        ids = any(not isinstance(text, str) for text in texts)
        if ids and not self.settings.allow_token_ids:
            raise ApiError(400, IDS_REFUSED, "token_ids_refused", param=param)
        if len(texts) > self.settings.max_texts:
            message = f"{param} holds {len(texts)} texts, but this server accepts {self.settings.max_texts} per request"
            raise ApiError(400, message, "too_many_texts", param=param)
        try:
            asked = self.models.find(self.name(model))
            if role and asked.role and role != asked.role:
                message = f"the model's name says {asked.role!r} and {role_param} says {role!r}: leave one out"
                raise ApiError(400, message, "role_conflict", param=role_param)
            engine = await self.models.engine(asked)
            options = options | CallOptions(wait=False, timeout=self.settings.request_timeout)
            found = await engine.aembed(texts, role or asked.role or "document", token_ids=ids, **options)
        except (MLXQwenEmbeddingsError, ValueError) as error:
            raise ApiError.of(error, param=_wrong_field(error, param)) from error
        state = request.state
        state.model = self.name(model)
        state.texts = getattr(state, "texts", 0) + len(texts)
        state.tokens = getattr(state, "tokens", 0) + int(found.tokens.sum())
        return found

    def name(self, model: str | None) -> str:
        """Return the name of the model that answers a request."""
        return self.models.default if model is None else model


def _wrong_field(error: Exception, texts: str) -> str | None:
    """Return the field of the request that an error of the engine is about, or None when that is not known."""
    if isinstance(error, InputTooLongError | InvalidTextError):
        return texts
    if isinstance(error, UnknownModelError):
        return "model"
    return "dimensions" if str(error).startswith("dimensions=") else None
