"""What the request bodies of several endpoints share, and how errors are declared."""

from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, create_model

from mlx_qwen_embeddings.options import OPTIONS, CallOptions, pydantic_fields
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.server.errors import BUSY_SECONDS, LOADING_SECONDS, ApiError

MODEL_NAMES = "Alias or Hub name of a served model, optionally with `:query` or `:document` at the end to choose the role"

ModelName = Annotated[str | None, Field(description=f"{MODEL_NAMES}; null takes the default model.")]
RoleName = Annotated[
    Role | None,
    Field(
        description="Whether the texts are queries or documents; null takes the role in the model's name, else document."
    ),
]


def example(*bodies: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a schema with these examples."""
    return ConfigDict(json_schema_extra={"examples": list(bodies)})


class Body(BaseModel):
    """A request; unknown fields are refused, since the client expects them to do something."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @property
    def options(self) -> CallOptions:
        """The options for the engine; one that is null takes the engine's default."""
        return cast("CallOptions", self.model_dump(include=set(CallOptions.__annotations__), exclude_none=True))


SERVED = tuple(option.name for option in OPTIONS.values() if option.served)
"""Options that requests may set."""

AnyBody = TypeVar("AnyBody", bound=Body)


def with_options(names: Collection[str] = SERVED) -> Callable[[type[AnyBody]], type[AnyBody]]:
    """Return a decorator that adds these options to a request as fields; null takes an option's default."""

    def add(body: type[AnyBody]) -> type[AnyBody]:
        fields = pydantic_fields(names, null=True)
        return create_model(body.__name__, __base__=body, __module__=body.__module__, __doc__=body.__doc__, **fields)

    return add


class ErrorDetail(BaseModel):
    """What went wrong, and what to do."""

    message: str
    type: str
    # Always sent, also when it is null. It is not declared as required, since FastAPI drops null from examples.
    param: str | None = Field(default=None, description="The field of the request that is wrong, where it is one.")
    code: str = Field(description="Tells programs which error it is.")


class ErrorResponse(BaseModel):
    """An error in OpenAI's format."""

    error: ErrorDetail


MEANINGS = {
    400: "The request asks for something that cannot be done.",
    401: "The API key is missing or wrong.",
    404: "The model is not served here.",
    413: "The body is too large.",
    422: "The body does not fit its schema.",
    429: "The server is busy: try again after the seconds of Retry-After.",
    500: "The model failed, for example with NaN.",
    503: "The model is still loading, or the server is shutting down: try again after the seconds of Retry-After.",
}
EXAMPLES = [
    ApiError(400, "texts[0] has 9000 tokens, more than max_length=8192: split it", "context_length_exceeded"),
    ApiError(401, "send one of this server's API keys as 'Authorization: Bearer KEY'", "invalid_api_key"),
    ApiError(404, "the model 'x' is not served here: nano are", "model_not_found"),
    ApiError(413, "the body is larger than 16777216 bytes: send fewer texts per request", "body_too_large"),
    ApiError(422, "dimensions: Input should be a valid integer", "invalid_request", param="dimensions"),
    ApiError(429, "512 requests are in progress: try again later", "too_many_requests", retry_after=BUSY_SECONDS),
    ApiError(500, "the model gave NaN or infinity", "non_finite_embedding"),
    ApiError(503, "the model 'small' is still loading: try again", "model_loading", retry_after=LOADING_SECONDS),
]
REQUEST_ID = {"description": "The id sent with the request, or a new one.", "required": True, "schema": {"type": "string"}}
RETRY_AFTER = {"description": "Seconds after which to try again.", "required": True, "schema": {"type": "integer"}}


def declare_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the declarations of an endpoint's errors: those with these statuses, or by default all."""
    return {
        error.status: {
            "model": ErrorResponse,
            "description": MEANINGS[error.status],
            "headers": {"X-Request-ID": REQUEST_ID} | ({} if error.retry_after is None else {"Retry-After": RETRY_AFTER}),
            "content": {"application/json": {"example": error.content}},
        }
        for error in EXAMPLES
        if not statuses or error.status in statuses
    }
