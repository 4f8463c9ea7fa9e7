"""What the load showed, as tables: results/load.md, and the one in the README.

python -m benchmarks.load_report      writes them anew from results/load.json
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HEAD = ("connections", "requests/s", "p50", "p95", "p99", "lost")


def milliseconds(seconds: float) -> str:
    """Lay a time out."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.01 else f"{seconds * 1000:,.0f} ms"  # noqa: PLR2004 - short ones


def row(case: dict[str, Any]) -> list[str]:
    """Give the cells of a case."""
    lost = case["lost"] + case["refused"] + case.get("unaccounted", 0)
    times = [milliseconds(case[name]) for name in ("p50", "p95", "p99")]
    return [str(case["connections"]), f"{case['per_second']:,.0f}", *times, str(lost)]


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Write a table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def read() -> dict[str, Any]:
    """Read what was measured."""
    result: dict[str, Any] = json.loads((RESULTS / "load.json").read_text())
    return result


def sides(found: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Give name and cases of each server that was asked for new texts."""
    named = [("`nano`", found["nano"]["new texts"])]
    if peer := found.get("all-MiniLM"):
        named += [("`all-minilm`", peer["ours"]), ("infinity-emb, `all-minilm`", peer["infinity"])]
    return named


def short() -> str:
    """Give the README's table."""
    found = read()["found"]
    rows = [[name if not place else "", *row(case)] for name, cases in sides(found) for place, case in enumerate(cases)]
    return table(("model", *HEAD), rows)


def gain(cases: list[dict[str, Any]]) -> float:
    """Say how many times the throughput of one connection 64 of them have."""
    rates = {case["connections"]: case["per_second"] for case in cases}
    ratio: float = rates[64] / rates[1]
    return ratio


def overload(found: dict[str, Any]) -> str:
    """Tell of the server that was asked for more than it can."""
    before, during, after, memory = (found[name] for name in ("before", "during", "after", "memory"))
    counts = ", ".join(f"{number:,} with {status}" for status, number in sorted(during["statuses"].items()))
    mib = {name: memory[name] / 2**20 for name in ("before", "peak", "after")}
    return (
        f"{during['connections']} connections asked for {during['asked_per_second']:,.0f} texts a second of a server that "
        f"gives {before['per_second']:,.0f} and takes 64 at a time. It answered {counts} (499: wrk hung up at its end), "
        f"{during['served_per_second']:,.0f} vectors a second, half of them within {milliseconds(during['p50'])} and 99 of "
        f"100 within {milliseconds(during['p99'])}; {during['lost']} answers were lost. Then it gave "
        f"{after['per_second']:,.0f} a second. Memory: {mib['before']:,.0f} MiB before, {mib['peak']:,.0f} at most, "
        f"{mib['after']:,.0f} after."
    )


def page() -> str:
    """Write the whole of it."""
    result = read()
    found, machine = result["found"], result["machine"][0]
    parts = ["# Load", "Written by `make load`; the raw figures are in [load.json](load.json)."]
    parts.append(
        f"{result['date']}, {machine['processor']}, {machine['cores']} cores, with wrk on the same machine, "
        f"{found['seconds']:g} seconds a case. A request is one new text of 12 words, answered in base64. Lost: no answer, "
        "no 200, or not in the server's own count."
    )
    for name, cases in sides(found):
        parts += [f"## {name}", table(HEAD, [row(case) for case in cases])]
        parts.append(f"64 connections have {gain(cases):.1f} times the throughput of one.")
    parts += [
        "## One text again and again, from the cache",
        table(HEAD, [row(x) for x in found["nano"]["one text, cached"]]),
    ]
    parts += ["## Four times what it can do", overload(found["overload"])]
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
