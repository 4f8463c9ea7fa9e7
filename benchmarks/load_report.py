"""Write the tables of the load test: results/load.md, and the one in the README.

python -m benchmarks.load_report      writes them from results/load.json
"""

import json
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.load_faults import excess, faults, gain, grown, lost
from benchmarks.markdown import table
from benchmarks.overload import LIMIT
from benchmarks.wrk import PATIENCE

RESULTS = Path(__file__).parent / "results"
HEAD = ("connections", "requests/s", "p50", "p95", "p99", "lost")


def milliseconds(seconds: float) -> str:
    """Format a time."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.01 else f"{seconds * 1000:,.0f} ms"  # noqa: PLR2004 - short times


def row(case: dict[str, Any]) -> list[str]:
    """Return the cells of a case."""
    times = [milliseconds(case[name]) for name in ("p50", "p95", "p99")]
    return [str(case["connections"]), f"{case['per_second']:,.0f}", *times, str(lost(case) + case["refused"])]


def read() -> dict[str, Any]:
    """Read the measurements."""
    result: dict[str, Any] = json.loads((RESULTS / "load.json").read_text())
    return result


def sides(found: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the name and the cases of each server that was measured with new texts."""
    named = [("`nano`", found["nano"]["new texts"])]
    if peer := found.get("all-MiniLM"):
        named += [("`all-minilm`", peer["ours"]), ("infinity-emb, `all-minilm`", peer["infinity"])]
    return named


def short() -> str:
    """Return the README's table."""
    found = read()["found"]
    rows = [[name if not place else "", *row(case)] for name, cases in sides(found) for place, case in enumerate(cases)]
    return f"{table(('model', *HEAD), rows)}\n\n{sentences(found)}"


def sentences(found: dict[str, Any]) -> str:
    """Return the README's sentences on the overload and on infinity-emb, whichever is faster."""
    over = found["overload"]
    statuses, rest = over["during"]["statuses"], over["after"]["per_second"] / over["before"]["per_second"]
    more, kept = grown(over)
    said = (
        f"Asked for {excess(over):.1f} times what it gives, the server that takes {LIMIT} requests at a time "
        f"answered {statuses.get('429', 0):,} of {sum(statuses.values()):,} with 429, and gave {rest:.1f} times as much "
        f"afterwards as before; its memory was up to {more:.0f} MiB larger meanwhile, and {max(0, kept):.0f} afterwards."
    )
    if peer := found.get("all-MiniLM"):
        pairs = [
            (ours, ours["per_second"] / its["per_second"]) for ours, its in zip(peer["ours"], peer["infinity"], strict=True)
        ]
        ratios = [f"{ratio:.1f} at {case['connections']}" for case, ratio in pairs]
        first = f"{pairs[0][1]:.1f} times infinity-emb's requests a second at {pairs[0][0]['connections']} connection"
        said += f" On the same `all-minilm` this package gives {', '.join([first, *ratios[1:]])}."
    return "\n".join(textwrap.wrap(said, 120, break_on_hyphens=False, break_long_words=False))


def overload(found: dict[str, Any]) -> str:
    """Return the section on the overloaded server."""
    before, during, after, memory = (found[name] for name in ("before", "during", "after", "memory"))
    counts = ", ".join(f"{number:,} with {status}" for status, number in sorted(during["statuses"].items()))
    within = during["served_within"]
    mib = {name: memory[name] / 2**20 for name in ("before", "peak", "after")}
    return (
        f"{during['connections']} connections asked for {during['asked_per_second']:,.0f} texts a second, "
        f"{excess(found):.1f} times the {before['per_second']:,.0f} that the server gives, which takes {LIMIT} at a time. "
        f"It answered {counts} (499: wrk hung up at its end), {during['served_per_second']:,.0f} vectors a second, half of "
        f"them within {milliseconds(within['p50'])} and 99 of 100 within {milliseconds(within['p99'])}; {lost(during)} "
        f"answers were lost. Then it gave {after['per_second']:,.0f} a second. Memory: {mib['before']:,.0f} MiB before, "
        f"{mib['peak']:,.0f} at most, {mib['after']:,.0f} after; the freed buffers that MLX keeps, up to 64 MiB, are not "
        "counted."
    )


def page() -> str:
    """Return the whole page."""
    result = read()
    found, machine = result["found"], result["machine"][0]
    parts = ["# Load", "Written by `make load`; the raw figures are in [load.json](load.json)."]
    parts.append(
        f"{result['date']}, {machine['processor']}, {machine['cores']} cores, with wrk on the same machine, "
        f"{found['seconds']:g} seconds a case. A request is one new text of 12 words, answered in base64. Lost: no 200, "
        f"no answer within {PATIENCE} seconds, or one that is not in the server's own log."
    )
    for name, cases in sides(found):
        parts += [f"## {name}", table(HEAD, [row(case) for case in cases])]
        parts.append(f"64 connections have {gain(cases):.1f} times the throughput of one.")
    parts += [
        "## One text again and again, from the cache",
        table(HEAD, [row(x) for x in found["nano"]["one text, cached"]]),
    ]
    parts += ["## More than four times what it can do", overload(found["overload"])]
    if wrong := faults(found):
        parts.append("**It does not hold:** " + "; ".join(wrong) + ".")
    if peer := found.get("all-MiniLM"):
        parts.append(
            f"infinity-emb was asked in turns with this package, on the same weights (cosine of the vectors at least "
            f"{peer['least cosine']:.6f}), from an environment of its own: {', '.join(peer['versions'])}."
        )
    return "\n\n".join(parts) + "\n"


def write() -> None:
    """Write the page."""
    (RESULTS / "load.md").write_text(page())


if __name__ == "__main__":
    write()
