"""Bodies of the simpler endpoints."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from mlx_qwen_embeddings.server.routes.schemas import Bits, Body, Cut, Dimensions, Instruction, Meant, Which, refusals
from mlx_qwen_embeddings.server.service import Service, answer
from mlx_qwen_embeddings.similarity import METRICS, Metric

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


def simple_routes(service: Service) -> APIRouter:
    """Make the endpoints."""
    router = APIRouter(tags=["simple"])

    @router.post("/embed", response_model=EmbedAnswer, responses=refusals())
    async def embed(body: EmbedRequest, request: Request) -> Response:
        """Embed one text."""
        start = time.perf_counter()
        found = await service.embed([body.text], body.model, body.role, body.options, param="text")
        vector = found.vectors[0]
        service.note(request, body.model, 1, int(found.tokens.sum()))
        facts = {**_facts(service, body), "cached": bool(found.cached[0])}
        return await answer(lambda: {"embedding": vector.tolist(), **facts, **_seconds(start)}, vector.size)

    @router.post("/embed_batch", response_model=EmbedBatchAnswer, responses=refusals())
    async def embed_batch(body: EmbedBatchRequest, request: Request) -> Response:
        """Embed several texts."""
        start = time.perf_counter()
        found = await service.embed(body.texts, body.model, body.role, body.options, param="texts")
        vectors = found.vectors
        service.note(request, body.model, len(body.texts), int(found.tokens.sum()))
        facts = {**_facts(service, body), "cached": found.cached.tolist()}
        return await answer(lambda: {"embeddings": vectors.tolist(), **facts, **_seconds(start)}, vectors.size)

    @router.post("/similarity", response_model=SimilarityAnswer, responses=refusals())
    async def similarity(body: SimilarityRequest, request: Request) -> Response:
        """Compare texts with texts."""
        start = time.perf_counter()
        texts_b = body.texts_a if body.texts_b is None else body.texts_b
        a = await service.embed(body.texts_a, body.model, body.role_a, body.options, param="texts_a", role_param="role_a")
        b = await service.embed(texts_b, body.model, body.role_b, body.options, param="texts_b", role_param="role_b")
        tokens = int(a.tokens.sum() + b.tokens.sum())
        service.note(request, body.model, len(body.texts_a) + len(texts_b), tokens)
        metric: Metric = body.metric or "cosine"
        facts = {"metric": metric, "model": service.name(body.model)}

        def compared() -> dict[str, Any]:
            scores = METRICS[metric](a.vectors, b.vectors)
            return {"scores": scores.tolist(), **facts, **_seconds(start)}

        return await answer(compared, len(a.vectors) * len(b.vectors) * 8)

    return router


def _facts(service: Service, body: TextOptions) -> dict[str, Any]:
    return {"dimensions": body.dimensions or service.dimensions(body.model), "model": service.name(body.model)}


def _seconds(start: float) -> dict[str, float]:
    return {"seconds": round(time.perf_counter() - start, 6)}
