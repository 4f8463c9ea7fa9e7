"""A real server in its own process, on a free port of this machine."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

PATIENCE = 60.0
"""Seconds after which something that never happens fails a test instead of blocking it."""

Line = dict[str, Any]


class ServerProcess:
    """A server with the model nano: its address, its log, its exit."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, "-m", "mlx_qwen_embeddings", "serve", "--port", "0", "--model", "nano", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_QWEN_")}
        environment |= {"HF_HUB_OFFLINE": "1"} | variables
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.raw: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = f"http://127.0.0.1:{self.line(lambda line: line['event'] == 'listening')['port']}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:  # left open, it would cause a ResourceWarning
            for line in log:
                with self._more:
                    self.raw.append(line)
                    self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def line(self, wanted: Callable[[Line], bool]) -> Line:
        """Wait for a line of the log, and return it."""

        def found() -> Line | None:
            lines = [json.loads(line) for line in self.raw if line.startswith("{")]
            return next((line for line in lines if wanted(line)), None)

        with self._more:
            line = self._more.wait_for(lambda: found() or not self._reader.is_alive(), PATIENCE)
        assert isinstance(line, dict), f"the server never logged that: {''.join(self.raw)}"
        return line

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **options)

    def wait(self) -> int:
        """Wait until the process ends, and return its exit status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status


@contextmanager
def serving(*arguments: str, **variables: str) -> Iterator[ServerProcess]:
    """Run a server, with nano loaded, until the block ends."""
    server = ServerProcess(*arguments, **variables)
    try:
        server.line(lambda line: line["event"] == "loaded")
        yield server
    finally:
        server.process.terminate()
        try:
            server.wait()
        finally:
            server.process.kill()
