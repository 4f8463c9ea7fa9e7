"""Provoke everything that can go wrong, all at once for some minutes; compare every vector and print a summary.

Usage: python -m soak [--seconds 600] [--threads 64] [--loops 8] [--output build/soak.json]
"""

import argparse
import faulthandler
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from soak.report import as_result, as_table, faults
from soak.run import run


def main() -> int:
    """Run the program; the status is 1 when an answer was wrong or missing, or when memory grew or anything hung."""
    parser = argparse.ArgumentParser(description="Run everything at once, with faults, and compare every vector.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--loops", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("build/soak.json"), help="the results, for the README")
    given = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)  # warnings about injected faults say nothing new
    with tempfile.TemporaryDirectory() as folder:
        ledger, watch = run(Path(folder), given.seconds, threads=given.threads, loops=given.loops)
        result = as_result(ledger, watch, seconds=given.seconds, threads=given.threads, loops=given.loops)
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        print(as_table(result))
        found = faults(result, ledger.complaints)
        for line in found:
            print(line, file=sys.stderr)
    if result["lost"]:
        faulthandler.dump_traceback()
        os._exit(1)  # a hanging thread would keep the process from ending
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
