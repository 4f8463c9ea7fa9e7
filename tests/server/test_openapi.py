"""The OpenAPI document: every request, response and error has an example that fits its schema."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from mlx_qwen_embeddings import EngineSettings
from mlx_qwen_embeddings.server.app import create_app
from mlx_qwen_embeddings.server.settings import ServerSettings

JSON = "application/json"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(ServerSettings(models=("nano",)), EngineSettings())) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, said) for path, methods in document["paths"].items() for method, said in methods.items()]


def check(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    whole = schema | {"components": document["components"]}  # its references point there
    assert [error.message for error in Draft202012Validator(whole).iter_errors(value)] == []


def examples(media: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Return the examples of a body, its own or else its schema's, after checking them."""
    schema = media["schema"]
    named = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    found = [media["example"]] if "example" in media else named.get("examples", [])
    for example in found:
        check(example, schema, document)
    return list(found)


def test_every_request_and_response_has_a_valid_example(document: dict[str, Any]) -> None:
    lacking = []
    for path, method, said in operations(document):
        bodies = {status: answer["content"] for status, answer in said["responses"].items()}
        if "requestBody" in said:
            bodies["request"] = said["requestBody"]["content"]
        for name, content in bodies.items():
            lacking += [(path, method, name, kind) for kind, media in content.items() if not examples(media, document)]
    assert lacking == []
    assert len(operations(document)) == 11


def test_example_requests_get_the_declared_responses(client: TestClient, document: dict[str, Any]) -> None:
    for path, method, said in operations(document):
        bodies: list[Any] = [None]
        if "requestBody" in said:
            bodies = examples(said["requestBody"]["content"][JSON], document)
        known = {given["name"]: given["schema"]["examples"][0] for given in said.get("parameters", [])}
        for body in bodies:
            answer = client.request(method, path.format(**known), json=body)
            while path == "/ready" and answer.status_code == 503:
                answer = client.get(path)
            assert answer.status_code == 200
            declared = said["responses"]["200"]["content"]
            if JSON in declared:
                check(answer.json(), declared[JSON]["schema"], document)


def test_errors_have_examples_of_their_status_and_declare_their_headers(document: dict[str, Any]) -> None:
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 500: "server_error"}
    for path, _, said in operations(document):
        for status, answer in said["responses"].items():
            if status == "200" or path == "/ready":
                continue
            headers = {"X-Request-ID", "Retry-After"} if status in {"429", "503"} else {"X-Request-ID"}
            assert set(answer["headers"]) == headers, (path, status)
            error = answer["content"][JSON]["example"]["error"]
            wanted = kinds.get(int(status), "server_error" if status == "503" else "invalid_request_error")
            assert error["type"] == wanted


def test_an_error_is_sent_as_declared(client: TestClient, document: dict[str, Any]) -> None:
    answer = client.post("/embed", json={"text": "a", "model": "none"})
    declared = document["paths"]["/embed"]["post"]["responses"][str(answer.status_code)]
    assert set(map(str.lower, declared["headers"])) <= set(answer.headers)
    check(answer.json(), declared["content"][JSON]["schema"], document)


def test_every_field_of_a_request_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("EmbeddingsRequest", "EmbedRequest", "EmbedBatchRequest", "SimilarityRequest"):
        assert [field for field, said in schemas[name]["properties"].items() if not said.get("description")] == []
