"""The application: endpoints, and the layers around them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import metadata

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from mlx_qwen_embeddings.server.errors import handle_errors
from mlx_qwen_embeddings.server.metrics import Metrics
from mlx_qwen_embeddings.server.middleware.auth import BEARER, ApiKeys
from mlx_qwen_embeddings.server.middleware.disconnect import CancelWhenGone
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
    """Make the application.

    Args:
        settings: Of the server.
        engines: Of the engines behind it; ``model`` is the default model.

    Raises:
        UnknownModelError: When a model of the settings means nothing.
        ValueError: When the file of API keys holds none.
        OSError: When it cannot be read.
    """
    models = Models(settings, engines)
    traffic = Traffic(settings.max_requests)
    metrics = Metrics(models, traffic)
    app = FastAPI(
        title="mlx-qwen-embeddings",
        version=metadata.version("mlx-qwen-embeddings"),
        description="Text embeddings of this machine's own models, as OpenAI's API gives them, and more simply.",
        lifespan=_life(models),
        middleware=_layers(settings, traffic, metrics),
    )
    app.state.traffic = traffic
    handle_errors(app)
    service = Service(settings, models)
    keyed = [BEARER] if settings.keys() else []
    for router in (openai_routes(service), simple_routes(service)):
        app.include_router(router, dependencies=keyed)
    app.include_router(state_routes(models, traffic, metrics, keyed))
    return app


def _life(models: Models) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(models.warm_up())
        try:
            yield
        finally:
            warming.cancel()
            await models.close()

    return life


def _layers(settings: ServerSettings, traffic: Traffic, metrics: Metrics) -> list[Middleware]:
    """Give the layers, the outermost first."""
    layers = [Middleware(Observe, metrics=metrics)]
    if settings.cors_origins:
        # Outside of the keys: a browser asks beforehand, and without one.
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # OpenAI's client for JavaScript sends a dozen of its own
                expose_headers=["X-Request-ID", "Retry-After"],
            )
        )
    layers.append(Middleware(ApiKeys, keys=settings.keys()))
    layers += [Middleware(Limits, traffic=traffic, settings=settings), Middleware(CancelWhenGone)]
    return layers
