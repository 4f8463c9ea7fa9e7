"""Run gunicorn with workers that are forked after the model was loaded. Check its vectors, also after a worker was killed.

Usage: ``python scripts/gunicorn_workers.py``
"""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from mlx_qwen_embeddings import EmbeddingEngine

APP = """
from mlx_qwen_embeddings import EngineSettings, get_engine
from mlx_qwen_embeddings.server.app import create_app
from mlx_qwen_embeddings.server.settings import ServerSettings

engines = EngineSettings(model="nano", cache_bytes=0)
get_engine("nano", cache_bytes=0).warmup()  # in the parent, so that the workers share its weights
app = create_app(ServerSettings(models=("nano",)), engines)
"""
WORKERS, REQUESTS, SECONDS = 3, 60, 120.0
TEXTS = ["The cat sat on the mat.", "Prices rose in May, for the third month in a row.", "", "A quiet light over water"]


def ask(port: int) -> Any:
    """Send one request over a new connection, and return its vectors."""
    body = json.dumps({"model": "nano", "input": TEXTS}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embeddings", body, {"Content-Type": "application/json", "Connection": "close"}
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - the address is fixed
        return [row["embedding"] for row in json.load(answer)["data"]]


def check(port: int, wanted: Any) -> None:
    """Send many requests at once, and compare every vector."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(ask, [port] * REQUESTS):
            np.testing.assert_allclose(np.array(found), wanted, rtol=0, atol=1e-5)


def wait_for(port: int) -> None:
    """Wait until the server is ready."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
        else:
            return
    message = "gunicorn never became ready"
    raise TimeoutError(message)


def workers(parent: int) -> list[int]:
    """Return the process ids of the workers."""
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, check=False)  # noqa: S607 - found on the PATH
    return [int(line) for line in found.stdout.split()]


def main() -> int:
    """Start gunicorn, send requests, kill a worker, send more, and stop. Return gunicorn's exit status."""
    with EmbeddingEngine("nano") as engine:
        wanted = engine.embed_documents(TEXTS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preloaded.py").write_text(APP)
        options = ["--preload", "--workers", str(WORKERS), "--worker-class", "uvicorn_worker.UvicornWorker"]
        command = [sys.executable, "-m", "gunicorn", *options, "--bind", f"127.0.0.1:{port}", "--timeout", "120"]
        server = subprocess.Popen([*command, "--log-level", "warning", "preloaded:app"], cwd=folder, env=os.environ)
        try:
            wait_for(port)
            check(port, wanted)
            victim = workers(server.pid)[0]
            os.kill(victim, signal.SIGKILL)
            while victim in (now := workers(server.pid)) or len(now) < WORKERS:
                time.sleep(0.1)
            wait_for(port)
            check(port, wanted)
        finally:
            server.terminate()
            status = server.wait(SECONDS)
    print(f"gunicorn, {WORKERS} forked workers, one of them killed: {2 * REQUESTS} right responses, status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main())
