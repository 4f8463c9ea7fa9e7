"""The simpler endpoints: vectors as plain lists, and scores."""

import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, StrictStr

from mlx_qwen_embeddings.server.routes.schemas import Body, ModelName, RoleName, declare_errors, example, with_options
from mlx_qwen_embeddings.server.service import Service, json_response
from mlx_qwen_embeddings.similarity import METRICS, Metric


@with_options()
class TextOptions(Body):
    """What requests for vectors share."""

    model: ModelName = None
    role: RoleName = None


class EmbedRequest(TextOptions):
    """One text."""

    model_config = example({"text": "Tides follow the moon.", "model": "nano"})

    text: StrictStr = Field(description="What to embed, unchanged.")


class EmbedBatchRequest(TextOptions):
    """Several texts."""

    model_config = example({"texts": ["Tides follow the moon.", "The cat sleeps."], "model": "nano"})

    texts: list[StrictStr] = Field(description="What to embed, unchanged; an empty list gives no vectors.")


class _Embedded(BaseModel):
    """What responses with vectors share."""

    dimensions: int = Field(description="Dimensions of a vector; binary precisions pack eight of them into one number.")
    model: str
    seconds: float


class EmbedResponse(_Embedded):
    """One vector, and how it was made."""

    model_config = example({"embedding": [0.6, 0.8], "dimensions": 2, "model": "nano", "seconds": 0.004, "cached": False})

    embedding: list[float] = Field(description="Whole numbers for the int8, uint8 and binary precisions.")
    cached: bool = Field(description="Whether the vector came from the cache.")


class EmbedBatchResponse(_Embedded):
    """Vectors in the order of the texts, and how they were made."""

    model_config = example(
        {
            "embeddings": [[0.6, 0.8], [0.8, -0.6]],
            "dimensions": 2,
            "model": "nano",
            "seconds": 0.004,
            "cached": [False, True],
        }
    )

    embeddings: list[list[float]] = Field(description="Whole numbers for the int8, uint8 and binary precisions.")
    cached: list[bool] = Field(description="Whether each vector came from the cache.")


@with_options(["dimensions", "truncate"])
class SimilarityRequest(Body):
    """Texts to compare with texts."""

    model_config = example(
        {"texts_a": ["What moves the sea?"], "texts_b": ["Tides follow the moon."], "role_a": "query", "model": "nano"}
    )

    texts_a: list[StrictStr] = Field(description="Texts to compare; each has a row of scores.")
    texts_b: list[StrictStr] | None = Field(
        default=None, description="Texts to compare with; null compares `texts_a` with each other."
    )
    metric: Metric | None = Field(
        default="cosine",
        description="cosine and dot (higher is more similar), euclidean or manhattan distance (lower is); null is cosine.",
    )
    model: ModelName = None
    role_a: RoleName = None
    role_b: RoleName = None


class SimilarityResponse(BaseModel):
    """Scores, one row for each of ``texts_a``."""

    model_config = example({"scores": [[0.52, 0.03]], "metric": "cosine", "model": "nano", "seconds": 0.006})

    scores: list[list[float]]
    metric: Metric
    model: str
    seconds: float


def simple_routes(service: Service) -> APIRouter:
    """Return the endpoints."""
    router = APIRouter(tags=["simple"])

    async def respond(request: Request, body: EmbedRequest | EmbedBatchRequest) -> Response:
        start = time.perf_counter()
        texts, param = ([body.text], "text") if isinstance(body, EmbedRequest) else (body.texts, "texts")
        found = await service.embed(request, texts, body.model, body.role, body.options, param=param)
        name = service.name(body.model)
        engine = service.models.engines[service.models.find(name).name]
        facts = {"dimensions": body.options.get("dimensions") or engine.dimensions, "model": name}

        def content() -> dict[str, Any]:
            rows, hits = found.vectors.tolist(), found.cached.tolist()
            made = {"embedding": rows[0], "cached": hits[0]} if param == "text" else {"embeddings": rows, "cached": hits}
            return made | facts | _seconds(start)

        return await json_response(content, found.vectors.size)

    @router.post("/embed", response_model=EmbedResponse, responses=declare_errors())
    async def embed(body: EmbedRequest, request: Request) -> Response:
        """Embed one text."""
        return await respond(request, body)

    @router.post("/embed_batch", response_model=EmbedBatchResponse, responses=declare_errors())
    async def embed_batch(body: EmbedBatchRequest, request: Request) -> Response:
        """Embed several texts."""
        return await respond(request, body)

    @router.post("/similarity", response_model=SimilarityResponse, responses=declare_errors())
    async def similarity(body: SimilarityRequest, request: Request) -> Response:
        """Compare texts with texts."""
        start = time.perf_counter()
        texts_b = body.texts_a if body.texts_b is None else body.texts_b
        embed_side = partial(service.embed, request, model=body.model, options=body.options)
        a = await embed_side(texts=body.texts_a, role=body.role_a, param="texts_a", role_param="role_a")
        b = await embed_side(texts=texts_b, role=body.role_b, param="texts_b", role_param="role_b")
        metric: Metric = body.metric or "cosine"
        facts = {"metric": metric, "model": service.name(body.model)}

        def content() -> dict[str, Any]:
            return {"scores": METRICS[metric](a.vectors, b.vectors).tolist()} | facts | _seconds(start)

        numbers = 8 * len(a.vectors) * len(b.vectors)  # computing a score takes longer than writing a number
        return await json_response(content, numbers)

    return router


def _seconds(start: float) -> dict[str, float]:
    return {"seconds": round(time.perf_counter() - start, 6)}
