"""Fuzz the public API for a while: run the property tests of tests/test_any_input.py with new seeds.

Usage: ``python scripts/fuzz_api.py [--seconds 60] [--seed 1] [--examples 400]``
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests" / "test_any_input.py"


def main() -> int:
    """Run rounds until the time is up or one fails. The same seed and number of examples repeat a round."""
    parser = argparse.ArgumentParser(description="Fuzz the public API for a while.")
    parser.add_argument("--seconds", type=float, default=60, help="how long to go on")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9, help="seed of the first round")
    parser.add_argument("--examples", type=int, default=400, help="examples of each property in a round")
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    seed = given.seed
    while True:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=0", f"--hypothesis-seed={seed}", str(TESTS)]
        begun = time.monotonic()
        done = subprocess.run(
            command,
            env=os.environ | {"FUZZ_EXAMPLES": str(given.examples)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"seed {seed}, {given.examples} examples of each property: status {done.returncode}", flush=True)
        if done.returncode:
            print(done.stdout)
            print(f"to repeat it: python scripts/fuzz_api.py --seconds 0 --seed {seed} --examples {given.examples}")
            return 1
        seed += 1
        if time.monotonic() + (time.monotonic() - begun) / 2 > end:
            return 0


if __name__ == "__main__":
    sys.exit(main())
