"""One embedding request, whatever the endpoint that it came through."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from mlx_qwen_embeddings.calls import Embedded
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.errors import InputTooLongError, InvalidTextError, MLXQwenEmbeddingsError, UnknownModelError
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.server.errors import ApiError
from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.settings import ServerSettings

IDS_REFUSED = (
    "input holds token ids, which OpenAI's clients take from another vocabulary than this model's. Send text: with "
    "LangChain OpenAIEmbeddings(check_embedding_ctx_length=False). Ids of this model's own tokenizer are taken when the "
    "server runs with allow_token_ids"
)


class Service:
    """Checks a request against the limits, and hands it to the model's engine."""

    def __init__(self, settings: ServerSettings, models: Models) -> None:
        """Keep both."""
        self.settings, self.models = settings, models

    async def embed(
        self,
        texts: Sequence[Any],
        model: str | None,
        role: Role | None,
        options: CallOptions,
        *,
        param: str,
        role_param: str = "role",
    ) -> Embedded:
        """Embed texts, or token ids where the server takes them.

        Args:
            texts: Strings, or lists of ids.
            model: Its name, maybe with a role at the end; None is the default model.
            role: The request's own; None takes that of the name, else "document".
            options: Those of the engine.
            param: The field that holds the texts, for messages.
            role_param: The one that holds the role.

        Raises:
            ApiError: When it cannot be done; it says why.
        """
        ids = any(not isinstance(text, str) for text in texts)
        if ids and not self.settings.allow_token_ids:
            raise ApiError(400, IDS_REFUSED, "token_ids_refused", param=param)
        if len(texts) > self.settings.max_texts:
            message = f"{param} holds {len(texts)} texts, and this server takes {self.settings.max_texts} a request"
            raise ApiError(400, message, "too_many_texts", param=param)
        try:
            engine, role = await self._find(model, role, role_param)
            options = options | CallOptions(wait=False, timeout=self.settings.request_timeout)
            return await engine.aembed(texts, role, token_ids=ids, **options)
        except (MLXQwenEmbeddingsError, ValueError) as error:
            raise ApiError.of(error, param=_at_fault(error, param)) from error

    def name(self, model: str | None) -> str:
        """Give the name of the model that answers a request."""
        return self.models.default if model is None else model

    def note(self, request: Request, model: str | None, texts: int, tokens: int) -> None:
        """Tell the log what a request was about."""
        state = request.state
        state.model, state.texts, state.tokens = self.name(model), texts, tokens

    def dimensions(self, model: str | None) -> int:
        """Give the width of a full vector of a model that has answered."""
        return self.models.engines[self.models.find(self.name(model)).name].dimensions

    async def _find(self, model: str | None, role: Role | None, param: str) -> tuple[EmbeddingEngine, Role]:
        asked = self.models.find(self.name(model))
        if role and asked.role and role != asked.role:
            message = f"the model's name says {asked.role!r} and {param} says {role!r}: leave one out"
            raise ApiError(400, message, "role_conflict", param=param)
        return await self.models.engine(asked), role or asked.role or "document"


def _at_fault(error: Exception, texts: str) -> str | None:
    """Give the field of the request that an error of the engine is about, as far as that is known."""
    if isinstance(error, InputTooLongError | InvalidTextError):
        return texts
    if isinstance(error, UnknownModelError):
        return "model"
    return "dimensions" if str(error).startswith("dimensions=") else None
