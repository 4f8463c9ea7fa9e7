"""The simple endpoints: roles in the model's name, and reduced precision."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings, ModelSpec, registry
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.server.app import create_app
from mlx_qwen_embeddings.server.settings import ServerSettings

TEXTS = ["Tides follow the moon.", "The cat sleeps."]
# nano has no prompts; with one, the vectors of queries differ from those of documents.
PROMPTED = ModelSpec("prompted", str(NANO_FOLDER), local=True, prompts={"query": "Quite another text: ", "document": ""})


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._models, "prompted", PROMPTED)
        with TestClient(create_app(ServerSettings(models=("nano", "prompted"), warm=()), EngineSettings())) as client:
            yield client


@pytest.fixture(scope="module")
def engine(client: TestClient) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine("prompted") as engine:
        yield engine


@pytest.mark.parametrize(
    ("model", "roles", "expected"),
    [
        ("prompted:query", {}, ("query", "query")),
        ("prompted:query", {"role_a": "query"}, ("query", "query")),
        ("prompted:document", {"role_b": "document"}, ("document", "document")),
        ("prompted", {}, ("document", "document")),
        ("prompted", {"role_a": "query"}, ("query", "document")),
    ],
)
def test_similarity_takes_roles_from_the_fields_and_the_models_name(
    client: TestClient, engine: EmbeddingEngine, model: str, roles: dict[str, str], expected: tuple[str, str]
) -> None:
    answer = client.post("/similarity", json={"texts_a": TEXTS, "texts_b": TEXTS, "model": model} | roles)
    embed = {"query": engine.embed_queries, "document": engine.embed_documents}
    wanted = embed[expected[0]](TEXTS) @ embed[expected[1]](TEXTS).T
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["scores"], wanted, atol=1e-5)
    assert not np.allclose(engine.embed_queries(TEXTS), engine.embed_documents(TEXTS), atol=1e-2)


@pytest.mark.parametrize("field", ["role_a", "role_b"])
def test_a_role_that_contradicts_the_models_name_is_refused_by_name(client: TestClient, field: str) -> None:
    answer = client.post("/similarity", json={"texts_a": ["a"], "model": "nano:query", field: "document"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "role_conflict", field)
    assert f"{field} says 'document'" in error["message"]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
def test_reduced_precision_is_the_engines(client: TestClient, precision: Any) -> None:
    body = {"model": "nano", "precision": precision}
    one = client.post("/embed", json=body | {"text": TEXTS[0], "dimensions": 36}).json()
    many = client.post("/embed_batch", json=body | {"texts": TEXTS, "dimensions": 36}).json()
    with EmbeddingEngine("nano") as nano:
        vectors = nano.embed_documents(TEXTS, dimensions=36)
    wanted = quantize(vectors, precision, unit_ranges(36))
    whole = wanted.dtype.kind in "iu"
    assert {type(number) for number in (*one["embedding"], *many["embeddings"][1])} == {int if whole else float}
    np.testing.assert_allclose(many["embeddings"], wanted, rtol=0, atol=1 if precision in {"int8", "uint8"} else 1e-3)
    assert one["embedding"] == many["embeddings"][0]
    assert (one["dimensions"], many["dimensions"]) == (36, 36)


def test_bits_are_packed_and_dimensions_count_them_unpacked(client: TestClient) -> None:
    found = client.post("/embed", json={"text": "a", "model": "nano", "precision": "ubinary"}).json()
    assert (len(found["embedding"]), found["dimensions"]) == (48, 384)


def test_an_invalid_precision_is_refused(client: TestClient) -> None:
    for more, status, param in (
        ({"precision": "int4"}, 422, "precision"),
        ({"precision": "int8", "normalize": False}, 400, None),
    ):
        answer = client.post("/embed", json={"text": "a", "model": "nano"} | more)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
