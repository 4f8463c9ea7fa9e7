"""What all tests share."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.backend import choose_backend

# MLX binds its BLAS when it is first imported: before the test modules do so, the fast one has to be there.
choose_backend()

# The reference implementations are installed by `make parity` alone, Ray by `make test-ray`, the heavy stores by
# `make test-stores`.
NEEDS = {"cluster": "ray", "jupyter": "jupyter_client", "parity": "torch", "stores": "langchain_qdrant"}
collect_ignore = [folder for folder, package in NEEDS.items() if not find_spec(package)]


@pytest.fixture
def fresh() -> Iterator[EmbeddingEngine]:
    """Give an engine of the test's own, on nano."""
    with EmbeddingEngine("nano") as engine:
        yield engine
