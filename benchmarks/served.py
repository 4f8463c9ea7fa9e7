"""Run a server in its own process, wait until it answers, send it requests, and measure its memory."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

PATIENCE = 180.0
"""Most seconds for a server to start and to stop."""


class Served:
    """A running server, as a benchmark sees it."""

    def __init__(self, command: list[str], log: Path, url: str, environment: dict[str, str]) -> None:
        """Start the server, which will listen at ``url``."""
        self.url, self.log = url, log
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Return the answer of a path. A body is sent with POST."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, {"Content-Type": "application/json"})  # noqa: S310 - a server on this machine
        with urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - as above
            found: bytes = answer.read()
            return found

    def wait(self, path: str) -> None:
        """Wait until a path answers."""
        end = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, f"the server ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < end, f"the server never answered: {self.log.read_text()[-2000:]}"
            try:
                self.ask(path)
            except OSError:  # refused, or not ready
                time.sleep(0.2)
            else:
                return

    @property
    def memory(self) -> int:
        """Resident bytes without the freed buffers that MLX keeps."""
        command = ["ps", "-o", "rss=", "-p", str(self.process.pid)]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(said.stdout) * 1024 - int(self.gauge("mlx_qwen_kept_memory_bytes"))

    def gauge(self, name: str) -> float:
        """Return the value of one of this package's metrics without labels."""
        return float(self.ask("/metrics").decode().partition(f"\n{name} ")[2].partition("\n")[0])

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """Sample the memory while the block runs, into the list that is returned."""
        samples, over = [self.memory], threading.Event()

        def sample() -> None:
            while not over.wait(0.25):
                samples.append(self.memory)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield samples
        finally:
            over.set()
            thread.join()

    def wait_until_idle(self) -> None:
        """Wait until this package's server is idle. Every request is then in its log."""
        end = time.monotonic() + PATIENCE
        while self.gauge("mlx_qwen_requests_in_hand"):
            assert time.monotonic() < end, "requests stay in hand whose clients have gone"
            time.sleep(0.1)

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines on embedding requests in this package's log."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == "request" and line["path"] == "/v1/embeddings"]


@contextmanager
def serve(command: list[str], log: Path, port: int, ready: str, environment: dict[str, str]) -> Iterator[Served]:
    """Run a server for as long as the block lasts."""
    server = Served(command, log, f"http://127.0.0.1:{port}", environment)
    try:
        server.wait(ready)
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(PATIENCE)
        finally:
            server.process.kill()
