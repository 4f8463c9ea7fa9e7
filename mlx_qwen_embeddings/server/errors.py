"""Errors in OpenAI's format, and the HTTP status of each of this package's exceptions."""

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
"""Values of ``Retry-After``."""

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
"""Status, code and ``Retry-After`` of each exception; a subclass without an entry has those of its nearest ancestor."""


class ApiError(Exception):
    """A response other than 200.

    Args:
        status: HTTP status.
        message: What went wrong and what to do.
        code: Tells programs which error it is.
        param: Field of the request that is wrong; None when it is no single field, or not known.
        retry_after: Seconds after which to try again; None sends no such header.
    """

    def __init__(
        self, status: int, message: str, code: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.param, self.retry_after = param, retry_after

    @classmethod
    def of(cls, error: Exception, *, param: str | None = None) -> "ApiError":
        """Translate an exception of this package, or a ``ValueError`` about an option."""
        kind = next(kind for kind in type(error).__mro__ if kind in _STATUSES)
        status, code, retry_after = _STATUSES[kind]
        return cls(status, str(error), code, param=param, retry_after=retry_after)

    @property
    def content(self) -> dict[str, dict[str, str | None]]:
        """The body, in OpenAI's format."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")  # noqa: PLR2004
        return {"error": {"message": _utf8(self.message), "type": kind, "param": _utf8(self.param), "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the whole response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:  # noqa: PLR2004 - this status requires the header
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.content, self.status, headers)


def _utf8(text: str | None) -> str | None:
    # A lone surrogate that the request contained cannot be sent back.
    return text and text.encode("utf-8", "replace").decode()


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error from a layer around the endpoints, and note its code for log and metrics."""
    scope.setdefault("state", {})["error"] = error.code
    await error.response()(scope, receive, send)


def handle_errors(app: FastAPI) -> None:
    """Make every error of an endpoint a response in OpenAI's format."""

    @app.exception_handler(ApiError)
    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: ApiError | RequestValidationError) -> JSONResponse:
        refused = error if isinstance(error, ApiError) else _invalid_request(error.errors()[0])
        request.state.error = refused.code
        return refused.response()

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> JSONResponse:
        response = ApiError(error.status_code, str(error.detail), "http_error").response()
        response.headers.update(error.headers or {})
        return response


def _invalid_request(error: dict[str, Any]) -> ApiError:
    if error["type"] == "json_invalid":
        reason = error.get("ctx", {}).get("error", "it ends too early")
        return ApiError(400, f"the body is not JSON: {reason}", "invalid_json")
    place = [str(part) for part in error["loc"] if part != "body"]
    if place and place[0] == "input":
        # pydantic reports each form of the union; one sentence says what all of them accept.
        message = "input must be a string or a list of strings, at least one, of valid Unicode"
    elif place:
        message = f"{'.'.join(place)}: {error['msg']}"
    else:
        message = "the body must be a JSON object, sent with the header Content-Type: application/json"
    return ApiError(422, message, "invalid_request", param=place[0] if place else None)
