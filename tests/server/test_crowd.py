"""A server with a crowd of clients, each asking in a loop, is told to stop or killed: every response was right."""

import itertools
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlx_qwen_embeddings import EmbeddingEngine
from tests.support.server_process import PATIENCE, ServerProcess, serving

pytestmark = pytest.mark.heavy

CLIENTS, ANSWERS = 8, 40
LONG = [f"number {number} " * 100 for number in range(1000)]
"""Texts that take far longer to embed than the server has in these tests."""


class Crowd:
    """Clients that keep asking until a response is not 200."""

    def __init__(self, server: ServerProcess) -> None:
        self.answers: list[tuple[list[str], list[list[float]]]] = []
        self.ends: list[int | Exception] = []
        self._changed = threading.Condition()
        self._server = server
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        end: int | Exception = 0
        with self._server.client() as client:
            for turn in itertools.count():
                texts = [f"client {number} asks {turn} " + "tide " * length for length in (1, turn % 50, 20)]
                try:
                    answer = client.post("/v1/embeddings", json={"model": "nano", "input": texts})
                except httpx.HTTPError as error:
                    end = error
                    break
                if answer.status_code != 200:
                    end = answer.status_code
                    break
                with self._changed:
                    self.answers.append((texts, [item["embedding"] for item in answer.json()["data"]]))
                    self._changed.notify_all()
        with self._changed:
            self.ends.append(end)

    def wait_for(self, answers: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= answers, PATIENCE)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client is still waiting"

    def check(self) -> None:
        texts = [text for asked, _ in self.answers for text in asked]
        vectors = [vector for _, given in self.answers for vector in given]
        with EmbeddingEngine("nano") as engine:
            np.testing.assert_allclose(vectors, engine.embed_documents(texts), atol=1e-5)


def statuses(server: ServerProcess) -> list[int]:
    lines = [json.loads(line) for line in server.raw if line.startswith("{")]
    return [line["status"] for line in lines if line["event"] == "request" and line["path"] == "/v1/embeddings"]


def test_told_to_stop_it_answers_all_accepted_requests_correctly() -> None:
    with serving() as server:
        crowd = Crowd(server)
        crowd.wait_for(ANSWERS)
        server.process.terminate()
        assert server.wait() == 0
        crowd.join()
    assert set(statuses(server)) <= {200, 503}
    assert statuses(server).count(200) == len(crowd.answers) >= ANSWERS
    # A client whose next request came after the draining finds nobody listening.
    assert all(end == 503 or isinstance(end, httpx.TransportError) for end in crowd.ends)
    assert len(crowd.ends) == CLIENTS
    crowd.check()


def test_killed_repeatedly_it_never_answers_wrongly_and_no_client_waits() -> None:
    port = "0"
    for _ in range(2):
        with serving("--port", port) as server:
            port = server.url.rpartition(":")[2]
            crowd = Crowd(server)
            crowd.wait_for(ANSWERS)
            server.process.kill()
            assert server.wait() == -signal.SIGKILL
            crowd.join()
        assert len(crowd.ends) == CLIENTS
        assert all(isinstance(end, httpx.TransportError) for end in crowd.ends)
        crowd.check()


@contextmanager
def long_request(server: ServerProcess) -> Iterator[list[int | Exception]]:
    """Keep a request in progress; its end is in the list after the block."""
    ends: list[int | Exception] = []

    def ask() -> None:
        with server.client() as client:
            try:
                ends.append(client.post("/v1/embeddings", json={"model": "nano", "input": LONG}).status_code)
            except httpx.HTTPError as error:
                ends.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    with server.client() as other:
        while not in_progress(other):
            assert asking.is_alive(), "the request ended before it was seen in progress"
    yield ends
    asking.join(PATIENCE)
    assert not asking.is_alive()


def in_progress(client: httpx.Client) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return next(family.samples[0].value for family in families if family.name == "mlx_qwen_requests_in_hand")


def test_requests_that_are_not_finished_in_time_are_abandoned() -> None:
    with serving("--drain-seconds", "0.1") as server, long_request(server) as ends:
        server.process.terminate()
        line = server.line(lambda line: line["event"] == "draining timed out")
        status = server.wait()
    assert (status, line["level"], line["requests"]) == (0, "warning", 1)
    assert ends != [200]
    assert "Traceback" not in "".join(server.raw)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_wait(sent: signal.Signals) -> None:
    with serving("--drain-seconds", "1000") as server, long_request(server) as ends:
        server.process.send_signal(signal.SIGTERM)
        server.line(lambda line: line["event"] == "draining")
        server.process.send_signal(sent)
        status = server.wait()
    assert status == 0
    assert ends != [200]
    assert not any("draining timed out" in line for line in server.raw)
    assert "Traceback" not in "".join(server.raw)
