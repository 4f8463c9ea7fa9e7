"""Run the benchmarks and write what they found.

python -m benchmarks [--work FOLDER] [--rounds 3] [small] [engine] [presets] [large] [growth]
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import engine, growth, large, presets, small

RESULTS = Path(__file__).parent / "results"
PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "small": small.run,
    "engine": engine.run,
    "presets": presets.run,
    "large": large.run,
    "growth": growth.run,
}
PACKAGES = ("mlx", "mkl", "torch", "transformers", "sentence-transformers", "mlx-lm", "mlx-embeddings")


def versions() -> dict[str, str | None]:
    """Give the version of every package that counts."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Measure this package beside its peers, on this machine.")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all of them otherwise")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="folder for checkpoints, 5 GB")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    probe = [sys.executable, "-m", "benchmarks.machine"]
    for part in given.parts or PARTS:
        before = json.loads(subprocess.run(probe, check=True, capture_output=True, text=True).stdout)
        found = PARTS[part](given.work, given.rounds)
        after = json.loads(subprocess.run(probe, check=True, capture_output=True, text=True).stdout)
        said = {"date": datetime.now(UTC).date().isoformat(), "versions": versions(), "machine": [before, after]}
        (RESULTS / f"{part}.json").write_text(json.dumps(said | {"rounds": given.rounds, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
