"""How the server is, for those who start, stop and watch it."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response
from fastapi.params import Depends
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mlx_qwen_embeddings.server.metrics import Metrics
from mlx_qwen_embeddings.server.middleware.limits import Traffic
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.routes.schemas import State, refusals

NOT_NOW: dict[str, Any] = {
    "model": State,
    "description": "Not now.",
    "content": {"application/json": {"example": {"status": "loading"}}},
}
PROMETHEUS: dict[str, Any] = {
    "description": "Prometheus' text format.",
    "content": {"text/plain": {"schema": {"type": "string"}, "example": "mlx_qwen_loaded_models 1.0\n"}},
}


def state_routes(models: Models, traffic: Traffic, metrics: Metrics, keyed: Sequence[Depends]) -> APIRouter:
    """Make the endpoints; ``keyed`` are the dependencies of those that want an API key."""
    router = APIRouter(tags=["state"])

    @router.get("/health")
    async def health() -> State:
        """Say that the server lives."""
        return State(status="ok")

    @router.get("/ready", response_model=State, responses={503: NOT_NOW})
    async def ready() -> Response:
        """Say whether the models are loaded and requests are taken."""
        ok = models.ready and not traffic.draining
        state = State(status="draining" if traffic.draining else "ok" if ok else "loading")
        return JSONResponse(state.model_dump(), 200 if ok else 503)

    @router.get(
        "/metrics",
        dependencies=keyed,
        response_class=Response,
        responses={200: PROMETHEUS, **refusals(401)},
    )
    async def show_metrics() -> Response:
        """Give the counters for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
