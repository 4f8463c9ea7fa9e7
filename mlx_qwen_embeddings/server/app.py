"""The application: the endpoints, and the layers around them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from mlx_qwen_embeddings.server.errors import handle_errors
from mlx_qwen_embeddings.server.metrics import Metrics
from mlx_qwen_embeddings.server.middleware.auth import BEARER, ApiKeys
from mlx_qwen_embeddings.server.middleware.limits import Limits, Traffic
from mlx_qwen_embeddings.server.middleware.observe import Observe
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.routes.openai import openai_routes
from mlx_qwen_embeddings.server.routes.simple import simple_routes
from mlx_qwen_embeddings.server.routes.state import state_routes
from mlx_qwen_embeddings.server.service import Service
from mlx_qwen_embeddings.server.settings import ServerSettings
from mlx_qwen_embeddings.settings import EngineSettings


def create_app(settings: ServerSettings, engines: EngineSettings) -> FastAPI:
    """Create the application.

    Args:
        settings: Settings of the server.
        engines: Settings of the engines behind it; ``model`` is the default model.

    Raises:
        UnknownModelError: When a model of the settings is unknown.
        ValueError: When the file of API keys holds none.
        OSError: When that file cannot be read.
    """
    models = Models(settings, engines)
    traffic = Traffic(settings.max_requests)
    metrics = Metrics(models, lambda: traffic.in_progress)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(models.warm_up())
        try:
            yield
        finally:
            warming.cancel()
            await models.close()

    app = FastAPI(
        title="mlx-qwen-embeddings",
        version=metadata.version("mlx-qwen-embeddings"),
        description="Text embeddings from models on this machine: OpenAI's API, and a simpler one.",
        lifespan=lifespan,
    )
    keys = settings.keys()
    app.state.traffic, app.state.has_keys = traffic, bool(keys)
    handle_errors(app)
    # Each layer wraps those added before it.
    app.add_middleware(Limits, traffic=traffic, settings=settings)
    app.add_middleware(ApiKeys, keys=keys)
    if settings.cors_origins:
        # Outside the API keys: a browser sends its preflight request without one.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client for JavaScript sends a dozen of its own
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Observe, metrics=metrics)
    service, keyed = Service(settings, models), [BEARER] if keys else []
    for router in (openai_routes(service), simple_routes(service)):
        app.include_router(router, dependencies=keyed)
    app.include_router(state_routes(models, traffic, metrics, keyed))
    return app
