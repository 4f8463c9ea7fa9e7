"""Clients that hang up, and bodies that are too large, too slow or never end."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings
from mlx_qwen_embeddings.server import models as served
from mlx_qwen_embeddings.server.app import create_app
from mlx_qwen_embeddings.server.settings import ServerSettings
from tests.support.fake_encoder import PATIENCE, WatchedEncoder, wait_for_requests
from tests.support.server_process import serving

NANO = EngineSettings(model="nano")


class Encoder(WatchedEncoder):
    nbytes = 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingEngine]:
    """Return the engine that a server in this test opens."""
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        monkeypatch.setattr(served, "get_engine", lambda name, **settings: engine)
        yield engine


def application(**settings: Any) -> FastAPI:
    return create_app(ServerSettings(**{"models": ("nano",)} | settings), NANO)


class Client:
    """A request to an application in this process, sent part by part."""

    def __init__(self, app: FastAPI, *, hangs_up: bool = False, **headers: str) -> None:
        """Begin; with ``hangs_up`` the client hangs up when its response begins."""
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._hangs_up = hangs_up
        self.sent: list[Any] = []
        given = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "query_string": b"", "http_version": "1.1"}
        pairs = [(name.encode(), value.encode()) for name, value in given.items()]
        self.scope: dict[str, Any] = scope | {"headers": pairs, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
        self.task = asyncio.create_task(app(self.scope, self._queue.get, self._send))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        if self._hangs_up:
            self.hang_up()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def part(self, body: bytes, *, more: bool = True) -> "Client":
        self._queue.put_nowait({"type": "http.request", "body": body, "more_body": more})
        return self

    def ask(self, text: str = "a") -> "Client":
        return self.part(json.dumps({"model": "nano", "input": text}).encode(), more=False)

    def hang_up(self) -> "Client":
        self._queue.put_nowait({"type": "http.disconnect"})
        return self

    async def ended(self) -> tuple[int, str | None]:
        """Return the status, 0 without a response, and the error code."""
        await asyncio.wait_for(self.task, PATIENCE)
        status = next((message["status"] for message in self.sent if message["type"] == "http.response.start"), 0)
        return status, self.scope["state"].get("error")


async def in_thread(call: Callable[..., None], *arguments: Any) -> None:
    await asyncio.wait_for(asyncio.to_thread(call, *arguments), PATIENCE)


async def test_a_client_that_hangs_up_frees_its_place_before_the_running_batch_ends(engine: EmbeddingEngine) -> None:
    encoder, app = Encoder(engine), application()
    assert await Client(app).ask().ended() == (200, None)
    with encoder.held():
        stays = Client(app).ask()
        await in_thread(encoder.begun)
        leaves = Client(app).ask("tide " * 50)
        await in_thread(wait_for_requests, engine, 2)
        leaves.hang_up()
        assert await leaves.ended() == (0, "client_gone")
        await in_thread(wait_for_requests, engine, 1)
        assert app.state.traffic.in_progress == 1
    assert await stays.ended() == (200, None)
    longest = max(length for batch in encoder.batches for _, length in batch)
    assert longest < 50, "the text of the client that hung up was computed"


async def test_a_client_that_hangs_up_during_its_response_counts_as_served(engine: EmbeddingEngine) -> None:
    client = Client(application(), hangs_up=True).ask()
    assert await client.ended() == (200, None)
    assert [message["type"] for message in client.sent] == ["http.response.start", "http.response.body"]


async def test_a_client_that_hangs_up_within_its_body_is_not_a_bad_request(engine: EmbeddingEngine) -> None:
    app = application()
    assert await Client(app).part(b'{"model": ').hang_up().ended() == (0, "client_gone")
    assert app.state.traffic.in_progress == 0


async def test_the_bytes_of_all_bodies_are_bounded_and_counted_out_again(engine: EmbeddingEngine) -> None:
    app = application(max_total_bytes=3000, max_body_bytes=2500)
    first = Client(app).part(b" " * 2000)
    await asyncio.sleep(0)
    assert await Client(app, content_length="1500").ended() == (429, "too_many_bytes")
    second = Client(app).part(b" " * 600).part(b" " * 600)
    assert await second.ended() == (429, "too_many_bytes")
    assert ("retry-after", "1") in [(name.decode(), value.decode()) for name, value in second.sent[0]["headers"]]
    assert await Client(app).ask().ended() == (200, None)
    assert await first.ask().ended() == (200, None)
    assert await Client(app).part(b" " * 2000).ask().ended() == (200, None)


async def test_a_body_that_is_alone_may_exceed_the_total(engine: EmbeddingEngine) -> None:
    app = application(max_total_bytes=1024, max_body_bytes=4000)
    assert await Client(app, content_length="3100").part(b" " * 3000).ask().ended() == (200, None)
    assert await Client(app).part(b" " * 3000).part(b" " * 1001).ended() == (413, "body_too_large")


async def test_a_body_that_never_ends_does_not_keep_its_place_for_ever(engine: EmbeddingEngine) -> None:
    app = application(request_timeout=0.05)
    assert await Client(app).part(b"{").ended() == (503, "timeout")
    assert app.state.traffic.in_progress == 0


async def test_a_task_cancelled_from_outside_stays_cancelled(engine: EmbeddingEngine) -> None:
    encoder, app = Encoder(engine), application()
    with encoder.held():
        client = Client(app).ask()
        await in_thread(encoder.begun)
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.task
    assert app.state.traffic.in_progress == 0


def test_closing_a_real_connection_ends_its_request() -> None:
    body = json.dumps({"texts": [f"number {number} " * 200 for number in range(1000)]}).encode()
    head = f"POST /embed_batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with serving() as server:
        address = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), PATIENCE) as connection:
            connection.sendall(head.encode() + body)
            with server.client() as client:
                while "mlx_qwen_requests_in_hand 1.0" not in client.get("/metrics").text:
                    pass
        line = server.line(lambda line: line.get("status") == 499)
        with server.client() as client:
            found = client.get("/metrics").text
    assert (line["path"], line["error"]) == ("/embed_batch", "client_gone")
    assert "mlx_qwen_requests_in_hand 0.0" in found
    assert 'mlx_qwen_queued_requests{model="nano"} 0.0' in found
    assert 'mlx_qwen_request_failures_total{code="client_gone"} 1.0' in found
