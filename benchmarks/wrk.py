"""Load from wrk, which Debian has: as many connections as are asked for, each with a new request after its answer."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_suffix("").with_name("load.lua")
PATIENCE = 10
"""Seconds after which an answer is lost. wrk itself tells only of those that came later: of one that never comes, whoever
holds the server's log has to."""


def run(
    url: str, connections: int, seconds: float, *, model: str, seed: int, text: str | None = None, pause: float = 0
) -> dict[str, Any]:
    """Ask for a while.

    Args:
        url: Of the endpoint.
        connections: How many ask at once.
        seconds: How long.
        model: What the server calls it.
        seed: Of the texts.
        text: One for all requests; None makes a new one for each.
        pause: Seconds that a connection rests between an answer and its next request.
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
