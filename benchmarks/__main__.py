"""Run the benchmarks and write what they found.

python -m benchmarks [--work FOLDER] [--rounds 3] [small] [engine] [presets] [large] [growth] [memory]
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import engine, growth, large, memory, presets, small
from benchmarks.record import record

PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "small": small.run,
    "engine": engine.run,
    "presets": presets.run,
    "large": large.run,
    "growth": growth.run,
    "memory": memory.run,
}


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Measure this package beside its peers, on this machine.")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all of them otherwise")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="folder for checkpoints, 5 GB")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    for part in given.parts or PARTS:
        record(part, given.rounds, partial(PARTS[part], given.work, given.rounds))


if __name__ == "__main__":
    main()
