"""Bodies of the simpler endpoints."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from mlx_qwen_embeddings.server.schemas import Bits, Body, Cut, Dimensions, Instruction, Meant, Which
from mlx_qwen_embeddings.similarity import Metric

Width = Annotated[int, Field(description="Of the vector; bits are packed, eight of them to a number.")]


class TextOptions(Body):
    """What the simple endpoints have in common."""

    model: Which = None
    role: Meant = None
    instruction: Instruction = None
    dimensions: Dimensions = None
    truncate: Cut = "end"
    normalize: bool | None = Field(
        default=True, description="Whether vectors have unit length (also for null); int8 and uint8 need it."
    )
    precision: Bits = "float32"


class EmbedRequest(TextOptions):
    """One text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Tides follow the moon.", "model": "nano"}]})

    text: StrictStr = Field(description="What to embed; it is taken as it is.")


class EmbedBatchRequest(TextOptions):
    """Several texts."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"texts": ["Tides follow the moon.", "The cat sleeps."], "model": "nano"}]}
    )

    texts: list[StrictStr] = Field(description="What to embed, each taken as it is; an empty list gives no vectors.")


class EmbedAnswer(BaseModel):
    """One vector, and how it came."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"embedding": [0.6, 0.8], "dimensions": 2, "model": "nano", "seconds": 0.004, "cached": False}]
        }
    )

    embedding: list[float] = Field(description="Whole numbers where the precision counts steps or packs bits.")
    dimensions: Width
    model: str
    seconds: float
    cached: bool = Field(description="Whether the cache had it.")


class EmbedBatchAnswer(BaseModel):
    """Vectors in the order of the texts, and how they came."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "embeddings": [[0.6, 0.8], [0.8, -0.6]],
                    "dimensions": 2,
                    "model": "nano",
                    "seconds": 0.004,
                    "cached": [False, True],
                }
            ]
        }
    )

    embeddings: list[list[float]] = Field(description="Whole numbers where the precision counts steps or packs bits.")
    dimensions: Width
    model: str
    seconds: float
    cached: list[bool] = Field(description="Whether the cache had it, for each text.")


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

    texts_a: list[StrictStr] = Field(description="Each has a row of scores.")
    texts_b: list[StrictStr] | None = Field(default=None, description="null compares the first texts with one another.")
    metric: Metric | None = Field(
        default="cosine",
        description="Cosine for null. Of cosine and dot more is nearer, of the distances euclidean and manhattan less.",
    )
    model: Which = None
    role_a: Meant = None
    role_b: Meant = None
    dimensions: Dimensions = None
    truncate: Cut = "end"


class SimilarityAnswer(BaseModel):
    """Scores, a row for each of the first texts."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"scores": [[0.52, 0.03]], "metric": "cosine", "model": "nano", "seconds": 0.006}]}
    )

    scores: list[list[float]]
    metric: Metric
    model: str
    seconds: float
