"""LangChain's own standard tests, unmodified."""

from typing import Any

from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[MLXQwenEmbeddings]:
        return MLXQwenEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "nano"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"MLX_QWEN_MODEL": "nano"}, {}, {"model": "nano", "model_name": "nano"}


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[MLXQwenEmbeddings]:
        return MLXQwenEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "nano"}
