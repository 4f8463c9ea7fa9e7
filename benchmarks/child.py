"""Run one peer in its own process: read orders as JSON lines, and answer with the seconds each took."""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import texts
from benchmarks.peers import PEERS

MAKERS: dict[str, Callable[..., list[str]]] = {
    "documents": texts.documents,
    "queries": texts.queries,
    "short_with_repeats": texts.short_with_repeats,
}


def do(peer: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Embed the texts of an order and return the time."""
    given = MAKERS[order["texts"]](**order.get("with", {}))[slice(*order.get("slice", (None,)))]
    how, query = order.get("how", "all"), order.get("query", False)
    start = time.perf_counter()
    if how == "together":
        vectors = peer.together(given)
    elif how == "one by one":
        vectors = np.concatenate([peer.embed([text], query=query) for text in given])
    else:
        vectors = peer.embed(given, query=query)
    seconds = time.perf_counter() - start
    if "save" in order:
        np.save(order["save"], vectors)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "texts": len(given), "peak_bytes": peak}


def main() -> None:
    """Serve until the input ends."""
    name, *options = sys.argv[1].split(":")
    began = time.perf_counter()
    peer = PEERS[name](sys.argv[2], *options)
    answers = sys.stdout
    sys.stdout = sys.stderr  # so that nothing a peer prints is taken for an answer
    print(json.dumps({"load_seconds": time.perf_counter() - began}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(do(peer, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
