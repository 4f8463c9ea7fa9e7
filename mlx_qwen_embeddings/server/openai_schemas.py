"""Bodies of OpenAI's endpoints."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from mlx_qwen_embeddings.precision import Precision
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.server.schemas import Body, Cut, Dimensions, Instruction


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
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="`base64` holds float32 numbers, little-endian, also for the other precisions."
    )
    user: str | None = Field(default=None, description="Taken and not used.")
    role: Role | None = Field(default=None, description="Whether the texts are queries or documents, the default.")
    instruction: Instruction = None
    truncate: Cut = "end"
    precision: Precision = Field(
        default="float32",
        description="Fewer bits a component; int8 and uint8 count steps of a range fixed by the dimensions.",
    )


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

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class ModelEntry(BaseModel):
    """A model that is served; what only its files tell is null until it is first asked for."""

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

    object: Literal["list"] = "list"
    data: list[ModelEntry]
