"""What all tests share."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.engine import shared
from mlx_qwen_embeddings.registry import NANO_FOLDER

# MLX binds its BLAS when it is first imported: before the test modules do so, the fast one has to be there.
choose_backend()

# How long an example takes is no test: on a busy machine Hypothesis would report it as a failure.
if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("project", deadline=None)
    settings.load_profile("project")

# The reference implementations are installed by `make parity` alone, Ray by `make test-ray`, the heavy stores by
# `make test-stores`.
NEEDS = {"cluster": "ray", "jupyter": "jupyter_client", "parity": "torch", "stores": "langchain_qdrant"}
collect_ignore = [folder for folder, package in NEEDS.items() if not find_spec(package)]


@pytest.fixture(scope="module", autouse=True)
def _shared_engines_are_of_one_file() -> Iterator[None]:
    """Close the shared engines that a file of tests opened: another file may mean another model by the same name."""
    yield
    for engine in shared._engines.values():
        engine.close()
    shared._engines.clear()


@pytest.fixture(scope="session")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a copy of nano with a prompt for queries; nano itself embeds both roles alike."""
    folder = shutil.copytree(NANO_FOLDER, tmp_path_factory.mktemp("prompted") / "nano")
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "ask: ", "document": ""}}', "utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddingEngine]:
    """Yield an engine on nano that the tests of a file share."""
    with EmbeddingEngine("nano") as engine:
        yield engine


@pytest.fixture
def fresh() -> Iterator[EmbeddingEngine]:
    """Return a separate engine on nano, closed after the test."""
    with EmbeddingEngine("nano") as engine:
        yield engine
