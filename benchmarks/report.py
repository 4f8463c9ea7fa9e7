"""Write the results as Markdown tables and as charts.

python -m benchmarks.report      writes results/README.md, results/ratios.png and results/growth.png
"""

import json
from typing import Any

from benchmarks import charts
from benchmarks.bars import bars
from benchmarks.markdown import table
from benchmarks.record import RESULTS

Results = dict[str, dict[str, Any]]
PARTS = ("large", "small", "engine", "presets", "growth", "memory", "cuda")
HEAD = ["case", "peer", "time", "rounds", "texts/s", "its time over ours", "worst cosine to ours"]


def load() -> Results:
    """Read the existing results by part."""
    paths = {part: RESULTS / f"{part}.json" for part in PARTS}
    return {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}


def is_comparison(found: Any) -> bool:
    """Return whether a case compares peers."""
    return isinstance(found, dict) and all(isinstance(peer, dict) and "ratio" in peer for peer in found.values())


def compared(found: dict[str, Any]) -> list[list[str]]:
    """Return a row for each peer of each case."""
    rows = []
    for case, peers in found.items():
        first = next(iter(peers))
        for name, got in peers.items():
            held_against = got["ratio"] == 1  # exactly 1: the time over itself
            cosine = "" if held_against or got["worst_cosine"] is None else f"{got['worst_cosine']:.6f}"
            rate = f"{got['texts'] / got['median']:,.1f}"
            label = case if name == first or "without" in case else ""
            taken = [duration(got["median"]), str(len(got["seconds"]))]
            rows.append([label, name, *taken, rate, f"{got['ratio']:.2f}", cosine])
    return rows


def machine(result: dict[str, Any]) -> str:
    """Return a description of the machine and the packages."""
    before, after = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    return (
        f"{result['date']}, {before['processor']}, {before['cores']} cores, Python {before['python']}; {packages}. "
        f"float32 products before and after: {before['sgemm_gflops']:.0f} and {after['sgemm_gflops']:.0f} GFLOP/s; reading "
        f"memory: {before['bandwidth_gb_s']:.1f} and {after['bandwidth_gb_s']:.1f} GB/s. Medians "
        "of the rounds, peers in turn."
    )


def duration(seconds: float) -> str:
    """Format a time."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def number(value: Any) -> str:
    """Format a figure with four digits."""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def case_table(case: str, values: Any) -> str:
    """Return the table of one case: figures by name, or several figures for each of several subjects, without lists."""
    if not isinstance(values, dict):
        return f"### {case}\n\n{number(values)}"
    first = next(iter(values.values()))
    if isinstance(first, dict):
        names = list(first)
        rows = [[str(key), *(number(row.get(name)) for name in names)] for key, row in values.items()]
        return f"### {case}\n\n" + table(["", *names], rows)
    rows = [[str(key), number(value)] for key, value in values.items() if not isinstance(value, list)]
    return f"### {case}\n\n" + table(["", ""], rows)


def text(results: Results) -> str:
    """Return all tables."""
    parts = ["# Results", "Written by `make bench`; the raw figures are beside this page."]
    parts += ["## What is wanted", bars(results)]
    if "growth" in results:
        parts.append("![How cost grows](growth.png)")
    for part, result in results.items():
        found = result["found"]
        parts += [f"## {part}", machine(result)]
        cases = {case: peers for case, peers in found.items() if is_comparison(peers)}
        if cases:
            parts.append(table(HEAD, compared(cases)))
        parts += [case_table(case, values) for case, values in found.items() if case not in cases]
    return "\n\n".join(parts) + "\n"


SUMMARY = (
    ("large", "(a) documents", "128 documents of 5 to 512 tokens, 0.6B"),
    ("large", "(b) instructed queries", "256 queries of 5 to 15 tokens with the default instruction, 0.6B"),
    ("large", "(c) one query at a time", "12 such queries, one after the other, 0.6B"),
    ("large", "(a) subset, stock MLX", "6 documents, 0.6B"),
    ("large", "(d) 64 concurrent queries", "64 queries at once, 0.6B"),
    ("small", "(a) documents", "the 128 documents, cut at 256 tokens, all-MiniLM"),
    ("small", "(e) 20,000 short texts, 30 % repeated", "20,000 short texts, 30 % of them repeated, all-MiniLM"),
    ("small", "32 short texts", "32 short texts, all-MiniLM"),
    ("small", "nano, (a) documents", "the 128 documents, `nano`"),
    ("small", "(d) nano, 64 concurrent", "64 queries at once, `nano`"),
)


def summary(results: Results) -> str:
    """Return the README's table, and where it was measured."""
    rows = []
    for part, case, label in SUMMARY:
        peers = results.get(part, {"found": {}})["found"].get(case, {})
        ours = next(iter(peers.values()), None)
        for name, got in list(peers.items())[1:]:
            shown = [label, duration(ours["median"])] if ours and name == list(peers)[1] else ["", ""]
            rows.append([*shown, name, duration(got["median"]), f"{got['ratio']:.2f}"])
    made = table(["what", "here", "beside", "there", "times as fast"], rows)
    return "\n\n".join([made, *dict.fromkeys(where(results[part]) for part, *_ in SUMMARY if part in results)])


def where(result: dict[str, Any]) -> str:
    """Return a short description of the machine."""
    before = result["machine"][0]
    return f"{result['date']}, {before['processor']}, {before['cores']} cores; peers in turn, medians of the rounds."


def main() -> None:
    """Run the program."""
    results = load()
    (RESULTS / "README.md").write_text(text(results))
    cases = {
        f"{case}\n{name}": got["ratio"]
        for part in ("large", "small")
        for case, peers in results.get(part, {"found": {}})["found"].items()
        if is_comparison(peers) and "without" not in case
        for name, got in list(peers.items())[1:]
    }
    charts.ratios(cases).savefig(RESULTS / "ratios.png", dpi=130)
    if "growth" in results:
        charts.growth(results["growth"]["found"]).savefig(RESULTS / "growth.png", dpi=130)


if __name__ == "__main__":
    main()
