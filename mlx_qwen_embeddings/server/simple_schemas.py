"""Bodies of the simpler endpoints."""

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.server.schemas import Body, Cut, Dimensions, Instruction, Which
from mlx_qwen_embeddings.similarity import Metric


class TextOptions(Body):
    """What the simple endpoints have in common."""

    model: Which = None
    role: Role | None = None
    instruction: Instruction = None
    dimensions: Dimensions = None
    truncate: Cut = "end"
    normalize: bool = True


class EmbedRequest(TextOptions):
    """One text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Tides follow the moon.", "model": "nano"}]})

    text: StrictStr


class EmbedBatchRequest(TextOptions):
    """Several texts."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"texts": ["Tides follow the moon.", "The cat sleeps."], "model": "nano"}]}
    )

    texts: list[StrictStr]


class EmbedAnswer(BaseModel):
    """One vector, and how it came."""

    embedding: list[float]
    dimensions: int
    model: str
    seconds: float
    cached: bool


class EmbedBatchAnswer(BaseModel):
    """Vectors in the order of the texts, and how they came."""

    embeddings: list[list[float]]
    dimensions: int
    model: str
    seconds: float
    cached: list[bool]


class SimilarityRequest(Body):
    """Texts against texts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "texts_a": ["What moves the sea?"],
                    "texts_b": ["Tides follow the moon.", "The cat sleeps."],
                    "role_a": "query",
                    "model": "nano",
                }
            ]
        }
    )

    texts_a: list[StrictStr]
    texts_b: list[StrictStr] | None = Field(default=None, description="null compares the first texts with one another.")
    metric: Metric = "cosine"
    model: Which = None
    role_a: Role = "document"
    role_b: Role = "document"
    dimensions: Dimensions = None
    truncate: Cut = "end"


class SimilarityAnswer(BaseModel):
    """Scores, a row for each of the first texts."""

    scores: list[list[float]]
    metric: Metric
    model: str
    seconds: float
