"""The server's limits and errors: what is refused, with which status, and in which format."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings
from mlx_qwen_embeddings.server import models as served
from mlx_qwen_embeddings.server.app import create_app
from mlx_qwen_embeddings.server.settings import ServerSettings
from tests.support.fake_encoder import PATIENCE, WatchedEncoder

NANO = EngineSettings(model="nano")
ASK = {"model": "nano", "input": "a"}


class Encoder(WatchedEncoder):
    nbytes = 1
    spoilt = False

    def __init__(self, engine: EmbeddingEngine) -> None:
        super().__init__(engine)
        self.may_load = threading.Event()
        self.may_load.set()

    def _open(self) -> WatchedEncoder:
        assert self.may_load.wait(PATIENCE), "no test allowed the model to load"
        return super()._open()

    def compute(self, *arguments: Any) -> Any:
        vectors = super().compute(*arguments)
        return vectors * np.nan if self.spoilt else vectors


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Encoder]:
    """Return the encoder of the engine that a server in this test opens."""
    with EmbeddingEngine("nano", cache_bytes=0, queue_tokens=64) as engine:
        monkeypatch.setattr(served, "get_engine", lambda name, **settings: engine)
        yield Encoder(engine)


@contextmanager
def serving(**settings: Any) -> Iterator[TestClient]:
    with TestClient(create_app(ServerSettings(**{"models": ("nano",)} | settings), NANO)) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving(max_texts=5, max_body_bytes=2000) as client:
        yield client


def code(answer: Any) -> tuple[int, str, str | None]:  # the type of TestClient's responses depends on Starlette's version
    """Return a refusal's status, code and param."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"input": []}, (422, "invalid_request", "input")),
        ({"input": None}, (422, "invalid_request", "input")),
        ({"input": [True]}, (422, "invalid_request", "input")),
        ({"input": ["a", 1]}, (422, "invalid_request", "input")),
        ({"input": [1.5]}, (422, "invalid_request", "input")),
        ({"input": ["a"] * 6}, (400, "too_many_texts", "input")),
        ({"input": [[1], []]}, (400, "token_ids_refused", "input")),
        ({"model": 3}, (422, "invalid_request", "model")),
        ({"model": "small"}, (404, "model_not_found", "model")),
        ({"model": "../../etc"}, (404, "model_not_found", "model")),
        ({"dimensions": 0}, (422, "invalid_request", "dimensions")),
        ({"dimensions": 385}, (400, "invalid_value", "dimensions")),
        ({"dimensions": "8"}, (422, "invalid_request", "dimensions")),
        ({"encoding_format": "hex"}, (422, "invalid_request", "encoding_format")),
        ({"precision": "int4"}, (422, "invalid_request", "precision")),
        ({"role": "passage"}, (422, "invalid_request", "role")),
        ({"role": "document", "model": "nano:query"}, (400, "role_conflict", "role")),
        ({"instrction": "Find it"}, (422, "invalid_request", "instrction")),
    ],
)
def test_invalid_requests_are_refused(client: TestClient, change: dict[str, Any], expected: tuple[int, str, str]) -> None:
    assert code(client.post("/v1/embeddings", json=ASK | change)) == expected


def test_null_means_the_default(client: TestClient) -> None:
    nothing = dict.fromkeys(("dimensions", "encoding_format", "user", "role", "instruction", "truncate", "precision"))
    answers = [client.post("/v1/embeddings", json=ASK | more).json() for more in ({}, nothing)]
    assert answers[0] == answers[1]
    nothing = dict.fromkeys(("model", "role", "instruction", "dimensions", "truncate", "precision", "normalize"))
    answers = [client.post("/embed", json={"text": "nothing"} | more).json() for more in ({}, nothing)]
    assert answers[0]["embedding"] == answers[1]["embedding"]
    nothing = dict.fromkeys(("texts_b", "metric", "model", "role_a", "role_b", "dimensions", "truncate"))
    answer = client.post("/similarity", json={"texts_a": ["nothing"]} | nothing).json()
    assert (answer["metric"], answer["model"], len(answer["scores"])) == ("cosine", "nano", 1)


def test_a_body_not_declared_as_a_json_object_is_refused(client: TestClient) -> None:
    for content, kind in ((b'{"model": "nano", "input": "a"}', "text/plain"), (b"[1]", "application/json")):
        answer = client.post("/v1/embeddings", content=content, headers={"Content-Type": kind})
        assert code(answer) == (422, "invalid_request", None)
        assert "sent with the header Content-Type: application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"\xff", b'{"model": "nano", "input": "\xc3\x28"}', b"[" * 1900])
def test_a_body_that_is_not_json_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    assert code(answer)[0] in {400, 422}


def test_a_lone_surrogate_is_refused_with_a_readable_response(client: TestClient) -> None:
    for field in ("input", "model", "instruction", "\\ud800"):
        body = '{"model": "nano", "input": "a", "%s": "\\ud800"}' % field  # noqa: UP031 - the braces are JSON's
        answer = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
        assert code(answer)[0] in {400, 404, 422}


def test_errors_of_the_http_layer_have_the_same_format(client: TestClient) -> None:
    assert code(client.get("/nothing"))[0] == 404
    answer = client.get("/v1/embeddings")
    assert (code(answer)[0], answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_is_too_large_is_refused_also_without_a_declared_length(client: TestClient, *, chunked: bool) -> None:
    parts = [b"a" * 1000, b"a" * 1001]
    content = iter(parts) if chunked else b"".join(parts)
    assert code(client.post("/v1/embeddings", content=content)) == (413, "body_too_large", None)
    fits = b'{"model": "nano", "input": "%s"}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/embeddings", content=fits % (b"a" * 1900), headers=headers).status_code == 200


def test_the_simple_endpoints(client: TestClient) -> None:
    first = client.post("/embed", json={"text": "a tide", "dimensions": 3}).json()
    assert (len(first["embedding"]), first["dimensions"], first["model"], first["cached"]) == (3, 3, "nano", False)
    assert first["seconds"] > 0
    batch = client.post("/embed_batch", json={"texts": ["a tide", "new"], "normalize": False, "role": "document"}).json()
    assert batch["cached"] == [True, False]
    with EmbeddingEngine("nano") as engine:
        np.testing.assert_allclose(
            batch["embeddings"], engine.embed_documents(["a tide", "new"], normalize=False), atol=1e-4
        )
        wanted = engine.embed_documents(["a tide", "new"]) @ engine.embed_query("sea")
    assert client.post("/embed_batch", json={"texts": []}).json()["embeddings"] == []
    body = {"texts_a": ["a tide", "new"], "texts_b": ["sea"], "role_b": "query", "metric": "dot"}
    np.testing.assert_allclose(client.post("/similarity", json=body).json()["scores"], wanted[:, None], atol=1e-5)
    square = client.post("/similarity", json={"texts_a": ["a tide", "new"]}).json()["scores"]
    np.testing.assert_allclose(np.diag(square), 1, atol=1e-6)
    assert code(client.post("/similarity", json={"texts_a": ["a"] * 6})) == (400, "too_many_texts", "texts_a")


def test_requests_above_the_limit_get_429_until_another_ends(encoder: Encoder) -> None:
    with serving(max_requests=1) as client:
        client.post("/v1/embeddings", json=ASK)
        with encoder.held():
            first = threading.Thread(target=client.post, args=("/v1/embeddings",), kwargs={"json": ASK})
            first.start()
            encoder.begun()
            refused = client.post("/v1/embeddings", json=ASK)
            assert client.get("/ready").status_code == 200
        first.join(PATIENCE)
        assert (code(refused), refused.headers["retry-after"]) == ((429, "too_many_requests", None), "1")
        assert client.post("/v1/embeddings", json=ASK).status_code == 200
        metrics = client.get("/metrics").text
    assert 'mlx_qwen_request_failures_total{code="too_many_requests"} 1.0' in metrics
    assert 'mlx_qwen_requests_total{endpoint="/v1/embeddings",status="429"} 1.0' in metrics


def test_a_full_queue_is_429(encoder: Encoder) -> None:
    with serving() as client:
        client.post("/v1/embeddings", json=ASK)
        with encoder.held():
            long = ASK | {"input": "tide " * 100}
            first = threading.Thread(target=client.post, args=("/v1/embeddings",), kwargs={"json": long})
            first.start()
            encoder.begun()
            more = ASK | {"input": "tide " * 20}  # an eighth of the queue is reserved for shorter requests
            refused = client.post("/v1/embeddings", json=more)
            assert (code(refused), refused.headers["retry-after"]) == ((429, "queue_full", None), "1")
        first.join(PATIENCE)
        assert client.post("/v1/embeddings", json=ASK).status_code == 200


def test_a_request_that_is_not_served_in_time_is_503(encoder: Encoder) -> None:
    with serving(request_timeout=0.5) as client:
        client.post("/v1/embeddings", json=ASK)  # loads the model, which the encoder would hold too
        with encoder.held():
            answer = client.post("/v1/embeddings", json=ASK)
        assert (code(answer), answer.headers["retry-after"]) == ((503, "timeout", None), "1")


def test_a_vector_with_nan_is_a_500(encoder: Encoder) -> None:
    with serving() as client:
        client.post("/v1/embeddings", json=ASK)
        encoder.spoilt = True
        answer = client.post("/v1/embeddings", json=ASK)
        assert code(answer) == (500, "non_finite_embedding", None)
        assert "NaN or infinity" in answer.json()["error"]["message"]
        assert 'mlx_qwen_failures_total{kind="NonFiniteEmbeddingError",model="nano"} 1.0' in client.get("/metrics").text


def test_a_model_that_is_still_loading_is_503_until_it_is_loaded(encoder: Encoder) -> None:
    encoder.may_load.clear()
    with serving(load_wait=0) as client:
        answer = client.post("/v1/embeddings", json=ASK)
        assert (code(answer), answer.headers["retry-after"]) == ((503, "model_loading", None), "5")
        assert (client.get("/ready").status_code, client.get("/ready").json()) == (503, {"status": "loading"})
        assert client.get("/health").status_code == 200
        encoder.may_load.set()
        while client.get("/ready").status_code == 503:
            pass
        assert client.post("/v1/embeddings", json=ASK).status_code == 200


def test_a_model_that_cannot_be_loaded_is_503_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with serving(models=("nano", "small"), warm=(), load_wait=PATIENCE) as client:
        monkeypatch.setattr(served, "get_engine", lambda name, **_: EmbeddingEngine(name, cache_dir=tmp_path))
        answer = client.post("/v1/embeddings", json=ASK | {"model": "small"})
        assert (code(answer), answer.headers["retry-after"]) == ((503, "model_unavailable", None), "5")
        assert "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ" in answer.json()["error"]["message"]


def test_an_unexpected_error_is_a_500_without_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        message = "a text of the user"
        raise RuntimeError(message)

    monkeypatch.setattr(EmbeddingEngine, "aembed", broken)
    with serving() as client:
        answer = client.post("/v1/embeddings", json=ASK, headers={"X-Request-ID": "mine"})
    assert code(answer) == (500, "internal_error", None)
    assert "request id mine" in answer.json()["error"]["message"]
    assert "a text of the user" not in answer.text


@pytest.mark.parametrize(
    "sent", ["secret", "Basic secret", "Token secret", "Bearersecret", "Bearer: secret", " secret", ""]
)
def test_a_right_key_under_another_scheme_is_refused(sent: str) -> None:
    with serving(api_keys="secret") as client:
        answer = client.post("/v1/embeddings", json=ASK, headers={"Authorization": sent})
        assert code(answer) == (401, "invalid_api_key", None)
        assert answer.headers["www-authenticate"] == "Bearer"
        for scheme in ("Bearer", "bearer"):  # schemes are case-insensitive (RFC 9110)
            assert client.get("/v1/models", headers={"Authorization": f"{scheme} secret"}).status_code == 200


def test_only_listed_origins_get_cors_headers() -> None:
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with serving() as client:
        assert "access-control-allow-origin" not in client.post("/v1/embeddings", json=ASK, headers=headers).headers
        assert client.options("/v1/embeddings", headers=headers).status_code == 405
    with serving(cors_origins="https://a.example", api_keys="secret") as client:
        allowed = client.options("/v1/embeddings", headers=headers)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert client.options("/v1/embeddings", headers=headers | {"Origin": "https://b.example"}).status_code == 400
        # What OpenAI's client for JavaScript sends.
        sent = "authorization,content-type,x-stainless-lang,x-stainless-os,x-stainless-retry-count"
        allowed = client.options("/v1/embeddings", headers=headers | {"Access-Control-Request-Headers": sent})
        assert (allowed.status_code, allowed.headers["access-control-allow-headers"]) == (200, sent)


def test_the_openapi_document_of_a_server_without_keys_declares_none(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "securitySchemes" not in document["components"]
    assert not any("security" in operation for methods in document["paths"].values() for operation in methods.values())
