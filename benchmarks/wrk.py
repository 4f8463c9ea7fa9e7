"""Create load with wrk, which Debian packages: each connection sends a new request after every answer."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_suffix("").with_name("load.lua")
PATIENCE = 10
"""Seconds after which an answer counts as lost. wrk only reports late answers; missing ones show in the server's log."""


def run(
    url: str, connections: int, seconds: float, *, model: str, seed: int, text: str | None = None, pause: float = 0
) -> dict[str, Any]:
    """Send requests for a while.

    Args:
        url: The endpoint.
        connections: Number of concurrent connections.
        seconds: Duration.
        model: The model's name on the server.
        seed: Seed of the texts.
        text: One text for all requests; None makes a new one for each.
        pause: Seconds between an answer and the connection's next request.
    """
    program = shutil.which("wrk")
    if program is None:
        message = "wrk is not installed: apt-get install wrk, or brew install wrk"
        raise SystemExit(message)
    environment = os.environ | {"MODEL": model, "SEED": str(seed), "PAUSE": str(pause * 1000)}
    if text is not None:
        environment["TEXT"] = text
    command = [program, "-t1", f"-c{connections}", f"-d{seconds:g}s", f"--timeout={PATIENCE}s", "-s", str(SCRIPT), url]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, timeout=seconds + 6 * PATIENCE
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    lost = sum(found.pop(kind) for kind in ("connect", "read", "write", "timeout"))
    return {"connections": connections, **found, "lost": lost, "per_second": found["requests"] / found["seconds"]}
