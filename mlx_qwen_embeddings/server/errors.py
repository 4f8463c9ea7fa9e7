"""Errors in OpenAI's shape, and which status each of this package's exceptions has."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from mlx_qwen_embeddings.errors import (
    EmbeddingFailedError,
    EmbeddingTimeoutError,
    EngineBusyError,
    EngineClosedError,
    InputTooLongError,
    InvalidTextError,
    MissingExtraError,
    MLXQwenEmbeddingsError,
    ModelLoadError,
    NonFiniteEmbeddingError,
    UnknownModelError,
)

BUSY_SECONDS, LOADING_SECONDS = 1, 5
"""What ``Retry-After`` says."""

_STATUSES: dict[type[Exception], tuple[int, str, int | None]] = {
    UnknownModelError: (404, "model_not_found", None),
    InputTooLongError: (400, "context_length_exceeded", None),
    InvalidTextError: (400, "invalid_text", None),
    EngineBusyError: (429, "queue_full", BUSY_SECONDS),
    EmbeddingTimeoutError: (503, "timeout", BUSY_SECONDS),
    EngineClosedError: (503, "engine_closed", BUSY_SECONDS),
    ModelLoadError: (503, "model_unavailable", LOADING_SECONDS),
    MissingExtraError: (503, "model_unavailable", LOADING_SECONDS),
    NonFiniteEmbeddingError: (500, "non_finite_embedding", None),
    EmbeddingFailedError: (500, "embedding_failed", None),
    MLXQwenEmbeddingsError: (500, "internal_error", None),
    ValueError: (400, "invalid_value", None),
}
"""Exception to status, code, and seconds to retry after; the first that fits along the exception's ancestors."""


class ApiError(Exception):
    """An answer other than 200."""

    def __init__(
        self, status: int, message: str, code: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        """Keep what the answer says."""
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.param, self.retry_after = param, retry_after

    @classmethod
    def of(cls, error: Exception, *, param: str | None = None) -> "ApiError":
        """Translate an exception of this package, or a ``ValueError`` about an option.

        Args:
            error: What was raised.
            param: The field of the request that it is about.
        """
        kind = next(kind for kind in type(error).__mro__ if kind in _STATUSES)
        status, code, retry_after = _STATUSES[kind]
        return cls(status, str(error), code, param=param, retry_after=retry_after)

    @property
    def content(self) -> dict[str, dict[str, str | None]]:
        """What the answer holds, in OpenAI's shape."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")  # noqa: PLR2004
        words = {"message": _text(self.message), "type": kind, "param": _text(self.param), "code": self.code}
        return {"error": words}

    def response(self) -> JSONResponse:
        """Give the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:  # noqa: PLR2004 - what the status asks for
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.content, self.status, headers)


def _text(words: str | None) -> str | None:
    # A lone surrogate of the request has no place in an answer.
    return words and words.encode("utf-8", "replace").decode()


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in a layer around the routes, and leave the code for log and metrics."""
    scope.setdefault("state", {})["error"] = error.code
    await error.response()(scope, receive, send)


def handle_errors(app: FastAPI) -> None:
    """Let every error of a route come in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def _(request: Request, error: ApiError) -> JSONResponse:
        request.state.error = error.code
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        refused = _refusal(error.errors())
        request.state.error = refused.code
        return refused.response()

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> JSONResponse:
        answer = ApiError(error.status_code, str(error.detail), "http_error").response()
        answer.headers.update(error.headers or {})
        return answer


def _refusal(errors: Sequence[Any]) -> ApiError:
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"the body is no JSON: {first.get('ctx', {}).get('error', 'it ends too early')}", "invalid_json"
        )
    if place and place[0] == "input":
        # Of a union every form complains; one sentence says what they want.
        message = "input must be a string or a list of strings, at least one, of valid Unicode"
    elif place:
        message = f"{'.'.join(place)}: {first['msg']}"
    else:
        message = "the body must be a JSON object, sent with the header Content-Type: application/json"
    return ApiError(422, message, "invalid_request", param=place[0] if place else None)
