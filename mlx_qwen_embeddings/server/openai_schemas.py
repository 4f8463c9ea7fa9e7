"""Bodies of OpenAI's endpoints."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from mlx_qwen_embeddings.server.schemas import Bits, Body, Cut, Dimensions, Instruction, Meant


class EmbeddingsRequest(Body):
    """OpenAI's request, and four fields more: role, instruction, truncate, precision."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "nano", "input": ["Tides follow the moon.", "The cat sleeps."]},
                {"model": "nano:query", "input": "What moves the sea?", "dimensions": 128, "encoding_format": "base64"},
            ]
        }
    )

    input: (
        StrictStr
        | Annotated[list[StrictStr], Field(min_length=1)]
        | Annotated[list[StrictInt], Field(min_length=1)]
        | Annotated[list[list[StrictInt]], Field(min_length=1)]
    ) = Field(description="A text, or several. Token ids are refused unless the server allows them.")
    model: str = Field(description="Alias, maybe with `:query` or `:document` at the end to choose the role.")
    dimensions: Dimensions = None
    encoding_format: Literal["float", "base64"] | None = Field(
        default="float",
        description="`base64` holds float32 numbers, little-endian, also for the other precisions; null takes `float`.",
    )
    user: str | None = Field(default=None, description="Taken and not used.")
    role: Meant = None
    instruction: Instruction = None
    truncate: Cut = "end"
    precision: Bits = "float32"


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model read, prompts and special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """OpenAI's answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
                    "model": "nano",
                    "usage": {"prompt_tokens": 6, "total_tokens": 6},
                }
            ]
        }
    )

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


NANO: dict[str, Any] = {
    "object": "model",
    "id": "nano",
    "created": 0,
    "owned_by": "local",
    "aliases": [],
    "dimensions": 384,
    "max_length": 2048,
    "pooling": "last",
    "prompts": {"query": "", "document": ""},
    "dtype": "float32",
    "loaded": True,
}


class ModelEntry(BaseModel):
    """A model that is served; what only its files tell is null until it is downloaded."""

    model_config = ConfigDict(json_schema_extra={"examples": [NANO]})

    object: Literal["model"] = "model"
    id: str
    created: int = 0
    owned_by: str
    aliases: list[str]
    dimensions: int | None
    max_length: int | None
    pooling: str | None
    prompts: dict[str, str] | None
    dtype: str | None
    loaded: bool


class ModelList(BaseModel):
    """All of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"object": "list", "data": [NANO]}]})

    object: Literal["list"] = "list"
    data: list[ModelEntry]
