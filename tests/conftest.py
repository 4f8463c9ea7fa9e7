"""What all tests share."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.backend import choose_backend

# MLX binds its BLAS when it is first imported: before the test modules do so, the fast one has to be there.
choose_backend()

# These compare with the reference implementations, which only `make parity` installs.
collect_ignore = [] if find_spec("torch") else ["parity"]


@pytest.fixture
def fresh() -> Iterator[EmbeddingEngine]:
    """Give an engine of the test's own, on nano."""
    with EmbeddingEngine("nano") as engine:
        yield engine
