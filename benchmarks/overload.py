"""Put more load on the server than it accepts, and compare each case with its log."""

from collections import Counter
from typing import Any

import numpy as np

from benchmarks import wrk
from benchmarks.served import Served

LIMIT, CONNECTIONS, EXCESS = 64, 256, 4
"""Open requests that the overloaded server accepts, connections to it, and the requested multiple of its throughput."""

AIM = 1.25 * EXCESS
"""The multiple to aim at, because the rate varies."""

ROUNDS, SETTLING = 5, 10.0
"""Most attempts to find the pause, and the least seconds to measure throughput and memory before and after."""

GONE = 499


def counted(server: Served, connections: int, seconds: float, *, model: str = "nano", **asked: Any) -> dict[str, Any]:
    """Send requests for a while, and compare what wrk saw with the server's log.

    At the end wrk closes its open requests, at most one per connection. A request that had by then waited longer than an
    answer may take counts as lost, and so does an answer that the server did not log.
    """
    seen = len(server.lines())
    case = wrk.run(f"{server.url}/v1/embeddings", connections, seconds, model=model, **asked)
    server.wait_until_idle()
    lines = server.lines()[seen:]
    statuses = Counter(str(line["status"]) for line in lines)
    gone = [line["seconds"] for line in lines if line["status"] == GONE]
    case["statuses"] = dict(sorted(statuses.items()))
    case["overdue"] = max(sum(waited > wrk.PATIENCE for waited in gone), len(gone) - connections)
    case["unaccounted"] = max(0, case["requests"] - statuses.total() + statuses[str(GONE)])
    case["asked_per_second"] = len(lines) / case["seconds"]
    taken = [line["seconds"] for line in lines if line["status"] == 200]  # noqa: PLR2004
    case["served_per_second"] = len(taken) / case["seconds"]
    case["served_within"] = dict(
        zip(("p50", "p95", "p99"), np.percentile(taken or [0.0], [50, 95, 99]).tolist(), strict=True)
    )
    return case


def find_pause(server: Served, seconds: float, wanted: float) -> float:
    """Find how long each connection must pause for the wanted requests per second, as answers take time too."""
    pause = CONNECTIONS / wanted
    for seed in range(20, 20 + ROUNDS):
        asked = counted(server, CONNECTIONS, seconds, seed=seed, pause=pause)["asked_per_second"]
        if asked >= wanted:
            break
        pause = max(0.0, pause - (CONNECTIONS / asked - CONNECTIONS / wanted))
    return pause


def overload(server: Served, seconds: float) -> dict[str, Any]:
    """Request more than four times what the server can do, with a normal load before and after."""
    calm = max(seconds, SETTLING)
    before = counted(server, LIMIT, calm, seed=10)
    pause = find_pause(server, min(seconds, 3.0), AIM * before["per_second"])
    # The memory for this many connections is now allocated. From here on nothing more may be kept.
    memory = server.memory
    with server.peak() as samples:
        during = counted(server, CONNECTIONS, seconds, seed=11, pause=pause)
    after = counted(server, LIMIT, calm, seed=12)
    bytes_ = {"before": memory, "peak": max(samples), "after": server.memory, "samples": samples}
    return {"before": before, "during": during | {"pause": pause}, "after": after, "memory": bytes_}
