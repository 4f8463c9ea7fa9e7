"""Run schemathesis against a new server: no 5xx, no undeclared status, and responses that match their schema.

Usage: ``python scripts/fuzz_server.py [EXAMPLES]``, where EXAMPLES is the most requests for each endpoint.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(examples: str = "100") -> int:
    """Start the server, test it, stop it, and return the exit status."""
    command = [sys.executable, "-m", "mlx_qwen_embeddings", "serve", "--port", "0", "--model", "nano", "--models", "nano"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"MLX_QWEN_LOG_LEVEL": "info"})
    try:
        assert server.stderr is not None  # noqa: S101 - for the type checker
        lines = (json.loads(line) for line in server.stderr if line.startswith("{"))
        port = next(line["port"] for line in lines if line["event"] == "listening")
        next(line for line in lines if line["event"] == "loaded")
        # A full pipe would block the server's log.
        drain = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=server.stderr)
        tool = str(Path(sys.executable).with_name("schemathesis"))
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        trial = [tool, "run", f"http://127.0.0.1:{port}/openapi.json", "--checks", checks, "--max-examples", examples]
        with tempfile.TemporaryDirectory() as place:  # schemathesis leaves a folder behind
            status = subprocess.run([*trial, "--generation-deterministic"], check=False, cwd=place).returncode
    finally:
        server.terminate()
        ended = server.wait(60)
    drain.wait(60)
    return status or ended


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
