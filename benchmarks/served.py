"""A server in a process of its own: until it answers, while it is asked, and its memory."""

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
"""Seconds for a server to start, and to end."""


class Served:
    """What a benchmark sees of a server."""

    def __init__(self, command: list[str], log: Path, url: str, environment: dict[str, str]) -> None:
        """Start it; ``url`` is where it will listen."""
        self.url, self.log = url, log
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Give what a path answers; a body is posted."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, {"Content-Type": "application/json"})  # noqa: S310 - this machine's own
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
        """Resident bytes, as the system counts them, but for the freed buffers that MLX keeps, up to a limit of its own."""
        command = ["ps", "-o", "rss=", "-p", str(self.process.pid)]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(said.stdout) * 1024 - int(self.gauge("mlx_qwen_kept_memory_bytes"))

    def gauge(self, name: str) -> float:
        """Give one of this package's metrics that has no labels."""
        return float(self.ask("/metrics").decode().partition(f"\n{name} ")[2].partition("\n")[0])

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """Sample the memory while the block runs; the list it gives fills."""
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
        """Wait until this package's server has nothing in hand: then every request has its line in the log."""
        end = time.monotonic() + PATIENCE
        while self.gauge("mlx_qwen_requests_in_hand"):
            assert time.monotonic() < end, "requests stay in hand whose clients have gone"
            time.sleep(0.1)

    def lines(self) -> list[dict[str, Any]]:
        """Give the lines on embedding requests of this package's log."""
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
