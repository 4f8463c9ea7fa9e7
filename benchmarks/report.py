"""What was found, as tables in Markdown and a chart.

python -m benchmarks.report      writes benchmarks/results/README.md and benchmarks/results/ratios.png
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def load() -> dict[str, dict[str, Any]]:
    """Read the results that are there, by part."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def compared(found: dict[str, Any]) -> list[list[str]]:
    """Give a row for each peer of each case."""
    rows = []
    for case, peers in found.items():
        first = next(iter(peers))
        for name, got in peers.items():
            rate = got["texts"] / got["median"]
            cosine = got["worst_cosine"]
            same = "" if name == first or cosine is None else f"{cosine:.6f}"
            rows.append(
                [case if name == first else "", name, f"{got['median']:.2f} s", f"{rate:,.1f}", f"{got['ratio']:.2f}", same]
            )
    return rows


def machine(result: dict[str, Any]) -> str:
    """Say on what it was measured."""
    before, after = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    return (
        f"{result['date']}, {before['processor']}, {before['cores']} cores, Python {before['python']}; {packages}. "
        f"float32 products before and after: {before['sgemm_gflops']:.0f} and {after['sgemm_gflops']:.0f} GFLOP/s; reading "
        f"memory: {before['bandwidth_gb_s']:.1f} and {after['bandwidth_gb_s']:.1f} GB/s. Medians of "
        f"{result['rounds']} rounds, peers in turn."
    )


HEAD = ["case", "peer", "time", "texts/s", "times ours", "worst cosine to ours"]


def is_comparison(found: Any) -> bool:
    """Tell whether a case has peers."""
    return isinstance(found, dict) and all(isinstance(peer, dict) and "ratio" in peer for peer in found.values())


def text(results: dict[str, dict[str, Any]]) -> str:
    """Write all tables."""
    parts = ["# Results", "Written by `make bench`; the raw figures are beside this page."]
    for part, result in results.items():
        found = result["found"]
        parts += [f"## {part}", machine(result)]
        if cases := {case: peers for case, peers in found.items() if is_comparison(peers)}:
            parts.append(table(HEAD, compared(cases)))
        for case, values in found.items():
            if case not in cases:
                parts.append(f"### {case}\n\n```json\n{json.dumps(shortened(values), indent=1)}\n```")
    return "\n\n".join(parts) + "\n"


def shortened(value: Any) -> Any:
    """Round numbers and cut long lists, for reading."""
    match value:
        case dict():
            return {name: shortened(one) for name, one in value.items()}
        case list() if len(value) > 8:  # noqa: PLR2004 - a line's worth
            return [shortened(one) for one in value[:: len(value) // 8]]
        case float():
            return float(f"{value:.4g}")
    return value


def chart(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw how many times longer each peer takes than this package."""
    from matplotlib.figure import Figure

    bars = [
        (f"{case}\n{name}", got["ratio"])
        for part in ("large", "small")
        for case, peers in results.get(part, {"found": {}})["found"].items()
        if is_comparison(peers) and "without" not in case
        for name, got in list(peers.items())[1:]
    ]
    figure = Figure(figsize=(9, 0.55 * len(bars) + 1.2), layout="constrained")
    axes = figure.subplots()
    names, ratios = [name for name, _ in bars], [ratio for _, ratio in bars]
    drawn = axes.barh(names, ratios, color=["#0072B2" if ratio >= 1 else "#D55E00" for ratio in ratios])
    axes.bar_label(drawn, [f"{ratio:.2f} x" for ratio in ratios], padding=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="time, as a multiple of this package's (log scale; the line is this package)")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the program."""
    results = load()
    (RESULTS / "README.md").write_text(text(results))
    chart(results, RESULTS / "ratios.png")


if __name__ == "__main__":
    main()
