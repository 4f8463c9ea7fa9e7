"""The endpoints for whoever starts, stops and monitors the server."""

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.params import Depends
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from mlx_qwen_embeddings.server.metrics import Metrics
from mlx_qwen_embeddings.server.middleware.limits import Traffic
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.routes.schemas import declare_errors, example


class State(BaseModel):
    """The server's state."""

    model_config = example({"status": "ok"})

    status: Literal["ok", "loading", "draining"]


NOT_READY: dict[str, Any] = {
    "model": State,
    "description": "Not ready.",
    "content": {"application/json": {"example": {"status": "loading"}}},
}
PROMETHEUS: dict[str, Any] = {
    "description": "Prometheus' text format.",
    "content": {"text/plain": {"schema": {"type": "string"}, "example": "mlx_qwen_loaded_models 1.0\n"}},
}


def state_routes(models: Models, traffic: Traffic, metrics: Metrics, keyed: Sequence[Depends]) -> APIRouter:
    """Return the endpoints; those that need an API key get the dependencies in ``keyed``."""
    router = APIRouter(tags=["state"])

    @router.get("/health")
    async def health() -> State:
        """Answer as long as the process is alive."""
        return State(status="ok")

    @router.get("/ready", response_model=State, responses={503: NOT_READY})
    async def ready() -> Response:
        """Answer 200 when the models are loaded and requests are accepted."""
        ok = models.ready and not traffic.draining
        state = State(status="draining" if traffic.draining else "ok" if ok else "loading")
        return JSONResponse(state.model_dump(), 200 if ok else 503)

    @router.get("/metrics", dependencies=keyed, response_class=Response, responses={200: PROMETHEUS, **declare_errors(401)})
    async def show_metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
