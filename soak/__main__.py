"""Everything that can go wrong at once, for some minutes, with every vector compared; a ledger of what came of it.

python -m soak [--seconds 600] [--threads 64] [--loops 8] [--output build/soak.json]
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
    """Run the program; the status is 1 when a request was answered wrongly or not at all, or anything grew or hung."""
    parser = argparse.ArgumentParser(description="Run everything at once, with faults, and compare every vector.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--loops", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("build/soak.json"), help="what it found, for the README")
    given = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)  # what is said once a fault is no news here
    with tempfile.TemporaryDirectory() as folder:
        ledger, watch = run(Path(folder), given.seconds, threads=given.threads, loops=given.loops)
        result = as_result(ledger, watch, seconds=given.seconds, threads=given.threads, loops=given.loops)
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        print(as_table(result))
        ill = faults(result, ledger.complaints)
        for line in ill:
            print(line, file=sys.stderr)
    if result["lost"]:
        faulthandler.dump_traceback()
        os._exit(1)  # a thread that hangs would keep the process from ending
    return int(bool(ill))


if __name__ == "__main__":
    sys.exit(main())
