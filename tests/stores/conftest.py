"""Fixtures: the passages, their scores, a PostgreSQL server, and stores that are built when first used."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from mlx_qwen_embeddings import get_engine
from tests.stores.kinds import KINDS
from tests.stores.passages import QUESTIONS, Passage, passages
from tests.stores.place import Place
from tests.stores.postgres import serving


@pytest.fixture(scope="session")
def corpus() -> list[Passage]:
    return passages()


@pytest.fixture(scope="session")
def scores(corpus: list[Passage]) -> dict[str, np.ndarray]:
    """Return the cosine of every question with every passage, computed by brute force: what a store should find."""
    engine = get_engine("nano")
    documents = engine.embed_documents([passage.text for passage in corpus]).astype(np.float64)
    queries = engine.embed_queries(QUESTIONS).astype(np.float64)
    return dict(zip(QUESTIONS, queries @ documents.T, strict=True))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("postgres")) as address:
        yield address


@pytest.fixture(scope="session")
def built(
    tmp_path_factory: pytest.TempPathFactory, corpus: list[Passage], request: pytest.FixtureRequest
) -> Callable[[str], Place]:
    """Return a function that builds a store with the passages, closes it and returns its place."""
    places: dict[str, Place] = {}

    def build(name: str) -> Place:
        if name not in places:
            address = request.getfixturevalue("postgres") if "pgvector" in name else ""
            place = Place(tmp_path_factory.mktemp("store") / "place", address)
            with KINDS[name](place, {}) as store:
                store.add(corpus)
            places[name] = place
        return places[name]

    return build
