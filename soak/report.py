"""Report the results as JSON, and as a table for people."""

import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from mlx_qwen_embeddings.compute.mlx.blas import cores
from soak.ledger import Ledger
from soak.watch import Watch

MIB = 2**20

KINDS = ("thread", "loop", "forked child", "spawned child", "an engine that is closed", "the cache after a kill")
"""Each kind has to be right at least once in a run of ``LONG`` seconds."""

LONG, LONGER = 120, 300
"""Seconds after which every kind has had its turn, and after which memory use is stable."""

GROWTH, SPARE = 1.5, 128
"""Memory at the end may be ``GROWTH`` times that after a quarter plus ``SPARE`` MiB: the C library keeps freed memory."""

THREADS = 40
"""Most threads at the end: threads that computed are kept for the next engine."""


def as_result(ledger: Ledger, watch: Watch, *, seconds: float, threads: int, loops: int) -> dict[str, Any]:
    """Return all results."""
    return {
        "seconds": seconds,
        "threads": threads,
        "loops": loops,
        "uvloop": find_spec("uvloop") is not None,
        "system": f"{platform.system()} {platform.machine()}, {cores()} cores, Python {platform.python_version()}, "
        f"mlx {version('mlx')}",
        "requests": sum(ledger.verdicts.values()),
        "right": ledger.verdicts["right"],
        "right_by": dict(sorted(ledger.right_by.items())),
        "failed_as_they_should": dict(sorted(ledger.failed.items())),
        "wrong": ledger.verdicts["wrong"],
        "lost": ledger.verdicts["lost"],
        "longest_seconds": round(ledger.longest, 1),
        "events": dict(sorted(ledger.events.items())),
        "memory_mib": {name: round(size / MIB) for name, size in watch.memory.items()},
        "peak_queue": {"tokens": watch.queue_tokens, "requests": watch.queue_requests},
        "process_threads": watch.threads,
    }


def faults(result: dict[str, Any], complaints: list[str]) -> list[str]:
    """Return what went wrong, in words; empty if nothing did."""
    found = [f"{result[name]} {name}" for name in ("wrong", "lost") if result[name]] + complaints
    if (failed := result["events"].get("children that did not end well", 0)) > 0:
        found.append(f"{failed} children that did not end well")
    if result["process_threads"]["end"] > THREADS:
        found.append(f"{result['process_threads']['end']} threads at the end")
    if result["seconds"] >= LONG:
        found += [f"no {kind} was right" for kind in KINDS if not result["right_by"].get(kind)]
    memory = result["memory_mib"]
    if result["seconds"] >= LONGER and memory["end"] > GROWTH * memory["quarter"] + SPARE:
        found.append(f"memory grew from {memory['quarter']} to {memory['end']} MiB")
    return found


def as_table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    failed, memory, threads = result["failed_as_they_should"], result["memory_mib"], result["process_threads"]
    on_uvloop = f" ({(result['loops'] + 1) // 2} on uvloop)" if result["uvloop"] else ""
    rows = [
        ("callers", f"{result['threads']} threads, {result['loops']} event loops{on_uvloop}, {result['seconds']:,.0f} s"),
        ("requests", f"{result['requests']:,}"),
        ("right", f"{result['right']:,}: {_listed(result['right_by'])}"),
        ("failed as they should", f"{sum(failed.values()):,}: {_listed(failed)}"),
        ("**wrong**", f"**{result['wrong']:,}**"),
        ("**lost**", f"**{result['lost']:,}**"),
        ("meanwhile", _listed(result["events"])),
        ("longest request", f"{result['longest_seconds']} s"),
        ("memory, MiB", f"{memory['quarter']:,} after a quarter, {memory['end']:,} at the end, {memory['peak']:,} at most"),
        ("memory, all engines closed", f"{memory['closed']:,} MiB"),
        ("longest queue", f"{result['peak_queue']['tokens']:,} tokens, {result['peak_queue']['requests']:,} requests"),
        ("threads", f"{threads['start']} at the start, {threads['peak']} at most, {threads['end']} at the end"),
        ("machine", result["system"]),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _listed(counts: dict[str, int]) -> str:
    return "; ".join(f"{number:,} {name}" for name, number in counts.items())
