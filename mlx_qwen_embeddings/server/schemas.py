"""What the bodies of several endpoints have in common, and those of errors."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlx_qwen_embeddings.tokenization import Truncate

Dimensions = Annotated[int | None, Field(ge=1, le=65536, strict=True, description="Keep this many leading dimensions.")]
Instruction = Annotated[
    str | None,
    Field(description="The task in words; null takes the model's own prompt for the role, an empty string none."),
]
Cut = Annotated[Truncate, Field(description="What happens to texts that are too long: cut at the end, or refused.")]
Which = Annotated[str | None, Field(description="Alias, maybe with `:query` or `:document`; null is the default model.")]


class Body(BaseModel):
    """A request; a field that is not known is refused, since it was meant to do something."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class State(BaseModel):
    """How the server is."""

    status: Literal["ok", "loading", "draining"]


class ErrorDetail(BaseModel):
    """What went wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorDetail


REFUSALS = {
    400: "The request asks for what cannot be done.",
    401: "No API key, or a wrong one.",
    404: "The model is not served here.",
    413: "The body is too large.",
    422: "The body is not of this form.",
    429: "Too much to do: try again after the seconds of Retry-After.",
    500: "The model failed, such as with NaN.",
    503: "The model is being loaded, or the server is about to stop: try again after the seconds of Retry-After.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Give the declarations of an endpoint's errors; none given, all of them."""
    return {status: {"model": ErrorAnswer, "description": REFUSALS[status]} for status in statuses or REFUSALS}
