"""OpenAI's endpoints."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field, StrictInt, StrictStr

from mlx_qwen_embeddings.errors import UnknownModelError
from mlx_qwen_embeddings.server.errors import ApiError
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.routes.schemas import (
    MODEL_NAMES,
    SERVED,
    Body,
    RoleName,
    declare_errors,
    example,
    with_options,
)
from mlx_qwen_embeddings.server.service import Service, encode_vectors, json_response


@with_options([name for name in SERVED if name != "normalize"])
class EmbeddingsRequest(Body):
    """OpenAI's request, with role, instruction, truncate and precision as further fields."""

    model_config = example(
        {"model": "nano", "input": ["Tides follow the moon.", "The cat sleeps."]},
        {"model": "nano:query", "input": "What moves the sea?", "dimensions": 128, "encoding_format": "base64"},
    )

    input: (
        StrictStr
        | Annotated[list[StrictStr], Field(min_length=1)]
        | Annotated[list[StrictInt], Field(min_length=1)]
        | Annotated[list[list[StrictInt]], Field(min_length=1)]
    ) = Field(description="One or several texts. Token ids are refused unless the server allows them.")
    model: str = Field(description=f"{MODEL_NAMES}.")
    encoding_format: Literal["float", "base64"] | None = Field(
        default="float", description="`base64` is little-endian float32, whatever the precision; null takes `float`."
    )
    user: str | None = Field(default=None, description="Accepted but not used.")
    role: RoleName = None


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model read, including prompts and special tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """OpenAI's response."""

    model_config = example(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
            "model": "nano",
            "usage": {"prompt_tokens": 6, "total_tokens": 6},
        }
    )

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


NANO: dict[str, Any] = {
    "object": "model",
    "id": "nano",
    "created": 0,
    "owned_by": "local",
    "aliases": [],
    "dimensions": 384,
    "max_length": 2048,
    "pooling": "last",
    "prompts": {"query": "", "document": ""},
    "dtype": "float32",
    "loaded": True,
}


class ModelEntry(BaseModel):
    """A model that is served; what only its files say is null until they are downloaded."""

    model_config = example(NANO)

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
    """All models that are served."""

    model_config = example({"object": "list", "data": [NANO]})

    object: Literal["list"] = "list"
    data: list[ModelEntry]


Name = Annotated[str, Path(description=f"{MODEL_NAMES}.", examples=["nano"])]


def openai_routes(service: Service) -> APIRouter:
    """Return the endpoints."""
    router = APIRouter(tags=["OpenAI"])
    models = service.models

    @router.post("/v1/embeddings", response_model=EmbeddingsResponse, responses=declare_errors())
    async def create_embeddings(body: EmbeddingsRequest, request: Request) -> Response:
        """Embed one or several texts, as OpenAI's clients request it."""
        single = isinstance(body.input, str) or isinstance(body.input[0], int)
        texts: Sequence[Any] = [body.input] if single else body.input
        found = await service.embed(request, texts, body.model, body.role, body.options, param="input")
        tokens = int(found.tokens.sum())

        def content() -> dict[str, Any]:
            rows = encode_vectors(found.vectors, body.encoding_format or "float")
            return {
                "object": "list",
                "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
                "model": body.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }

        return await json_response(content, found.vectors.size)

    @router.get("/v1/models", responses=declare_errors(401))
    @router.get("/models", responses=declare_errors(401))
    async def list_models() -> ModelList:
        """List the models that are served."""
        return ModelList(data=await asyncio.to_thread(_entries, models, list(models.specs)))

    @router.get("/v1/models/{name:path}", response_model=ModelEntry, responses=declare_errors(401, 404, 422))
    @router.get("/models/{name:path}", response_model=ModelEntry, responses=declare_errors(401, 404, 422))
    async def retrieve_model(name: Name, request: Request) -> ModelEntry | Response:
        """Describe one of these models."""
        if not name:
            return RedirectResponse(request.url.path.rstrip("/"))
        try:
            known = models.find(name).name
        except UnknownModelError as error:
            raise ApiError.of(error) from error
        return (await asyncio.to_thread(_entries, models, [known]))[0]

    return router


def _entries(models: Models, names: Sequence[str]) -> list[ModelEntry]:
    """Return what is known of these models. Call it on another thread: it reads files."""
    entries, dtype = [], models.dtype()
    for name in names:
        spec, engine, facts = models.specs[name], models.engines.get(name), models.facts(name)
        entry = ModelEntry(
            id=name,
            owned_by="local" if spec.local else spec.source.split("/")[0],
            aliases=[*spec.aliases, *([] if spec.local else [spec.source])],
            dimensions=facts.dimensions if facts else spec.dimensions,
            max_length=facts.max_length if facts else spec.max_length,
            pooling=facts.pooling if facts else None,
            prompts=facts.prompts if facts else None,
            dtype=facts.dtype if facts else dtype,
            loaded=engine is not None and engine.loaded,
        )
        entries.append(entry)
    return entries
