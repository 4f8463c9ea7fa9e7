"""Write a benchmark's results as JSON, with the day, the packages and the machine."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("mlx", "mkl", "torch", "transformers", "sentence-transformers", "mlx-lm", "mlx-embeddings")


def versions() -> dict[str, str | None]:
    """Return the version of every package that matters."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Measure the machine in a separate process."""
    probe = [sys.executable, "-m", "benchmarks.machine"]
    found: dict[str, Any] = json.loads(subprocess.run(probe, check=True, capture_output=True, text=True).stdout)
    return found


def record(part: str, rounds: int, measure: Callable[[], dict[str, Any]]) -> None:
    """Run a measurement, measure the machine before and after it, and write ``results/{part}.json``."""
    RESULTS.mkdir(exist_ok=True)
    before, found = machine(), measure()
    said = {"date": datetime.now(UTC).date().isoformat(), "versions": versions(), "machine": [before, machine()]}
    (RESULTS / f"{part}.json").write_text(json.dumps(said | {"rounds": rounds, "found": found}, indent=1) + "\n")
