"""The simpler endpoints: a text, several texts, texts against texts."""

import time
from typing import Any

from fastapi import APIRouter, Request, Response

from mlx_qwen_embeddings.server.answers import answer
from mlx_qwen_embeddings.server.schemas import refusals
from mlx_qwen_embeddings.server.service import Service
from mlx_qwen_embeddings.server.simple_schemas import (
    EmbedAnswer,
    EmbedBatchAnswer,
    EmbedBatchRequest,
    EmbedRequest,
    SimilarityAnswer,
    SimilarityRequest,
    TextOptions,
)
from mlx_qwen_embeddings.similarity import METRICS, Metric


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
