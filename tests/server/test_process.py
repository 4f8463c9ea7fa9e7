"""A real server: keys, token ids, log, metrics, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.server_process import PATIENCE, ServerProcess, serving

pytestmark = pytest.mark.heavy

SECRET = "Nobody may read this sentence in a log."  # noqa: S105 - a text, not a password


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("# of the file\nfirst\n\nsecond\n", "utf-8")
    flags = ("--api-keys-file", str(keys), "--allow-token-ids", "--models", "nano")
    with serving(*flags, MLX_QWEN_API_KEYS="third") as server:
        yield server


def test_each_key_is_accepted_and_no_other(guarded: ServerProcess) -> None:
    for key in ("first", "second", "third"):
        known = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0)
        assert [model.id for model in known.models.list()] == ["nano"]
    for key in ("fourth", "firs", "first1", "# of the file", "ü"):
        with guarded.client(headers={"Authorization": f"Bearer {key}".encode()}) as client:
            for path in ("/v1/models", "/metrics", "/docs/", "/nonsense"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with guarded.client() as client:
        assert [client.get(path).status_code for path in ("/v1/models", "/health", "/ready")] == [401, 200, 200]
        assert "swagger" in client.get("/docs").text  # a browser sends no key by itself


def test_the_openapi_document_says_which_endpoints_need_a_key(guarded: ServerProcess) -> None:
    with guarded.client() as client:
        document = client.get("/openapi.json").json()
    (name, scheme) = next(iter(document["components"]["securitySchemes"].items()))
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    wanted = {
        path: operation.get("security") for path, methods in document["paths"].items() for operation in methods.values()
    }
    assert {path for path, security in wanted.items() if security is None} == {"/health", "/ready"}
    assert [security for security in wanted.values() if security] == [[{name: []}]] * 9


def test_token_ids_are_embedded_where_they_are_allowed(guarded: ServerProcess) -> None:
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="first", max_retries=0)
    ids = ModelFiles(NANO_FOLDER).tokenizer().encode(["Tides follow the moon."], max_length=99)[0].ids.tolist()
    with EmbeddingEngine("nano") as engine:
        wanted = engine.embed_documents(["Tides follow the moon."])[0]
    for given in (ids, [ids], ids[:-1]):
        found = client.embeddings.create(model="nano", input=given)
        np.testing.assert_allclose(found.data[0].embedding, wanted, atol=1e-5)
        assert found.usage.prompt_tokens == len(ids)
    with pytest.raises(openai.BadRequestError, match=r"texts\[0\]\[1\] is the token id 151643"):
        client.embeddings.create(model="nano", input=[5, 151643])


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_metrics_count_requests_and_texts() -> None:
    with serving() as server, server.client() as client:
        client.post("/v1/embeddings", json={"model": "nano", "input": ["tide " * 3000, "b", "b"]})
        client.post("/v1/embeddings", json={"model": "nano", "input": ["b"]})
        client.post("/v1/embeddings", json={"model": "nano", "input": [1]})
        client.get("/secret/folder")
        client.get("/v1/models/nano")
        client.get("/v1/models/none/such")
        found = samples(client)
    assert found["mlx_qwen_requests_total", "/v1/embeddings", "200"] == 2
    assert found["mlx_qwen_requests_total", "/v1/embeddings", "400"] == 1
    assert found["mlx_qwen_requests_total", "other", "404"] == 1
    assert [found["mlx_qwen_requests_total", "/v1/models/{name}", status] for status in ("200", "404")] == [1, 1]
    assert found["mlx_qwen_request_failures_total", "token_ids_refused"] == 1
    assert found["mlx_qwen_request_seconds_count", "/v1/embeddings"] == 3
    assert found["mlx_qwen_texts_total", "nano"] == 5  # including the one of the warm-up
    assert found["mlx_qwen_cache_hits_total", "nano"] == 1
    assert found["mlx_qwen_batch_texts_sum", "nano"] == 3
    assert found["mlx_qwen_truncations_total", "nano"] == 1
    assert found[("mlx_qwen_loaded_models",)] == 1
    assert found[("mlx_qwen_requests_in_hand",)] == 0
    for name in ("queued_requests", "tokens_total", "padding_tokens_total", "batch_texts_count"):
        assert (f"mlx_qwen_{name}", "nano") in found
    # These have no label: memory is counted per process, so a sum over models would count it several times.
    live, most, kept = (found[(f"mlx_qwen_{name}memory_bytes",)] for name in ("", "peak_", "kept_"))
    assert most >= live > 10_000_000
    assert kept > 0
    assert ("process_resident_memory_bytes",) in found


def test_the_log_is_json_with_ids_and_never_holds_a_text() -> None:
    with serving(MLX_QWEN_LOG_LEVEL="debug") as server, server.client() as client:
        sent = {"model": "nano", "input": SECRET}
        kept = client.post("/v1/embeddings", json=sent, headers={"X-Request-ID": "my-own.1"})
        made = client.post("/v1/embeddings", json=sent | {"dimensions": 9999}, headers={"X-Request-ID": "a b\tc"})
        client.post("/v1/embeddings", json=sent | {"nonsense": SECRET})
        client.post("/v1/embeddings", json={"model": SECRET, "input": SECRET})
        client.post(f"/{SECRET}?text={SECRET}", content=SECRET)
        client.post("/v1/embeddings", json=sent | {"truncate": "error", "input": SECRET * 400})
        line = server.line(lambda line: line.get("request_id") == "my-own.1")
        refused = server.line(lambda line: line.get("request_id") == made.headers["x-request-id"])
        last = server.line(lambda line: line.get("error") == "context_length_exceeded")
    assert (line["event"], line["model"], line["texts"], line["tokens"], line["status"]) == ("request", "nano", 1, 10, 200)
    assert (refused["error"], refused["status"], last["status"]) == ("invalid_value", 400, 400)
    assert kept.headers["x-request-id"] == "my-own.1"
    assert len(made.headers["x-request-id"]) == 32
    assert all(json.loads(raw)["level"] for raw in server.raw)
    assert "Nobody" not in "".join(server.raw)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_while_draining_accepted_requests_are_answered_and_new_ones_refused(sent: signal.Signals) -> None:
    texts = [f"number {number} " * 100 for number in range(40)]
    answers: list[httpx.Response] = []
    with serving() as server, server.client() as client, server.client() as other:

        def ask() -> None:
            answers.append(client.post("/v1/embeddings", json={"model": "nano", "input": texts}))

        asking = threading.Thread(target=ask)
        asking.start()
        while not samples(other).get(("mlx_qwen_requests_in_hand",)):
            assert asking.is_alive(), "the request ended before it was seen in progress"
        server.process.send_signal(sent)
        server.line(lambda line: line["event"] == "draining")
        refused = other.post("/v1/embeddings", json={"model": "nano", "input": "a"})
        states = other.get("/health").status_code, other.get("/ready").json()["status"]
        asking.join(PATIENCE)
        status = server.wait()
    assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (503, "draining", "1")
    assert states == (200, "draining")
    assert status == 0
    assert answers[0].status_code == 200
    vectors = np.array([item["embedding"] for item in answers[0].json()["data"]])
    with EmbeddingEngine("nano") as engine:
        np.testing.assert_allclose(vectors, engine.embed_documents(texts), atol=1e-5)


def test_an_idle_server_stops_and_starts_again(tmp_path: Path) -> None:
    for _ in range(2):
        with serving(MLX_QWEN_CACHE_PATH=str(tmp_path)) as server:
            with server.client() as client:
                assert client.post("/embed", json={"text": "a"}).status_code == 200
            server.process.terminate()
            assert server.wait() == 0


def test_after_a_kill_it_starts_again_on_its_port_with_its_stored_vectors(tmp_path: Path) -> None:
    variables = {"MLX_QWEN_CACHE_PATH": str(tmp_path)}
    ended: list[Exception] = []
    with serving(**variables) as server, server.client() as client, server.client() as other:
        assert client.post("/embed", json={"text": "kept"}).json()["cached"] is False

        def ask() -> None:
            try:
                client.post("/embed_batch", json={"texts": [f"number {number} " * 100 for number in range(200)]})
            except httpx.HTTPError as error:
                ended.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        while not samples(other).get(("mlx_qwen_requests_in_hand",)):
            assert asking.is_alive(), "the request ended before it was seen in progress"
        server.process.kill()
        asking.join(PATIENCE)
        assert server.wait() == -signal.SIGKILL
    assert len(ended) == 1
    with serving("--port", server.url.rpartition(":")[2], **variables) as again, again.client() as client:
        assert again.url == server.url
        assert client.post("/embed", json={"text": "kept"}).json()["cached"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="MKL is used on Linux only")
@pytest.mark.parametrize(("given", "expected"), [(None, "5"), ("7", "7")])
def test_mkl_is_told_to_release_idle_cores_before_it_is_loaded(given: str | None, expected: str) -> None:
    program = (
        "import os, sys\n"
        "from mlx_qwen_embeddings.server import run\n"
        "run.create_app = lambda *_: sys.exit(f\"{os.environ['KMP_BLOCKTIME']} {'mlx.core' in sys.modules}\")\n"
        "from mlx_qwen_embeddings.server.settings import ServerSettings\n"
        "run.serve(*ServerSettings.load())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KMP_BLOCKTIME"}
    environment |= {} if given is None else {"KMP_BLOCKTIME": given}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr.splitlines()[-1] == f"{expected} False"


def test_a_taken_port_is_an_error_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "mlx_qwen_embeddings", "serve", "--port", port, "--model", "nano"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert done.stderr.splitlines()[-1] == f"mlx-qwen: cannot listen on 127.0.0.1 port {port}: the log says why"
    assert "Traceback" not in done.stderr
