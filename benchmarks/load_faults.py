"""Check what must hold under load, and count lost requests."""

from typing import Any

from benchmarks.overload import EXCESS

LEAST_GAIN, LEAST_REST = 3, 0.8
"""Least ratios: the throughput of 64 connections to that of one, and that after the overload to that before."""

MOST_MORE_MIB, MOST_KEPT_MIB = 512, 64
"""Most additional memory that the overload may take, during and after it."""


def lost(case: dict[str, Any]) -> int:
    """Count requests without an answer: as wrk saw them, in the server's log, and between the two."""
    return int(case["lost"] + case.get("overdue", 0) + case.get("unaccounted", 0))


def gain(cases: list[dict[str, Any]]) -> float:
    """Return the throughput of 64 connections relative to one."""
    rates = {case["connections"]: case["per_second"] for case in cases}
    ratio: float = rates[64] / rates[1]
    return ratio


def excess(found: dict[str, Any]) -> float:
    """Return the requests to the overloaded server relative to its throughput."""
    ratio: float = found["during"]["asked_per_second"] / found["before"]["per_second"]
    return ratio


def grown(over: dict[str, Any]) -> tuple[float, float]:
    """Return how many MiB the overload took at most, and how many remained."""
    memory = over["memory"]
    return (memory["peak"] - memory["before"]) / 2**20, (memory["after"] - memory["before"]) / 2**20


def faults(found: dict[str, Any]) -> list[str]:
    """Return the checks that the server failed; empty if all is well."""
    nano, over = found["nano"], found["overload"]
    cases = {f"nano, {kind}": nano[kind] for kind in ("new texts", "one text, cached")}
    cases["overload"] = [over[name] for name in ("before", "during", "after")]
    cases["all-MiniLM"] = found.get("all-MiniLM", {}).get("ours", [])
    named = [(f"{name}, {case['connections']} connections", case) for name, cases_ in cases.items() for case in cases_]
    said = [f"{name}: {lost(case)} answers were lost" for name, case in named if lost(case)]
    calm = [(name, case) for name, case in named if case is not over["during"]]
    said += [f"{name}: {case['refused']} were refused without need" for name, case in calm if case["refused"]]
    more, kept = grown(over)
    rest = over["after"]["per_second"] / over["before"]["per_second"]
    beside_one = f"the throughput of one, not {LEAST_GAIN}"
    checks = [
        (nano["least cosine after"] > 1 - 1e-5, f"vectors changed: cosine {nano['least cosine after']:.6f}"),
        (gain(nano["new texts"]) >= LEAST_GAIN, f"64 connections have {gain(nano['new texts']):.2f} times {beside_one}"),
        (excess(over) >= EXCESS, f"overload asked for {excess(over):.2f} times what the server gives, not {EXCESS}"),
        (over["during"]["statuses"].get("429", 0) > 0, "overload: nothing was refused with 429"),
        (more <= MOST_MORE_MIB, f"overload: it took {more:.0f} MiB more, of at most {MOST_MORE_MIB}"),
        (kept <= MOST_KEPT_MIB, f"overload: {kept:.0f} MiB stayed, of at most {MOST_KEPT_MIB}"),
        (rest >= LEAST_REST, f"after the overload it gave {rest:.2f} of what it gave before"),
    ]
    return said + [complaint for holds, complaint in checks if not holds]
