"""Compare the measured speeds with the targets."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.markdown import table

Results = Mapping[str, dict[str, Any]]
Bar = tuple[str, str, Callable[[Results], float], Callable[[float], bool]]
"""A subject, the target in words, the figure, and whether it is met."""


def at_least(bar: float, what: str, figure: Callable[[Results], float]) -> Bar:
    """Return a target that is a lower limit."""
    return what, f"≥ {bar:,g}", figure, lambda found: found >= bar


def at_most(bar: float, what: str, figure: Callable[[Results], float]) -> Bar:
    """Return a target that is an upper limit."""
    return what, f"≤ {bar:,g}", figure, lambda found: found <= bar


def ratio(part: str, case: str, *peers: str) -> Callable[[Results], float]:
    """Return a function that tells how many times as fast this package is as the fastest of these peers."""
    return lambda results: min(float(results[part]["found"][case][peer]["ratio"]) for peer in peers)


def value(part: str, case: str, name: str) -> Callable[[Results], float]:
    """Return a function that looks up a figure."""
    return lambda results: float(results[part]["found"][case][name])


def per_second(case: str) -> Callable[[Results], float]:
    """Return a function that tells how many texts per second all-MiniLM embeds here."""

    def figure(results: Results) -> float:
        ours = results["small"]["found"][case]["all-MiniLM, ours"]
        return float(ours["texts"] / ours["median"])

    return figure


def stream(model: str, figure: Callable[[dict[str, float]], float]) -> Callable[[Results], float]:
    """Return a function that computes a figure from a long stream through a model."""
    return lambda results: figure(results["memory"]["found"][f"stream through {model}"])


def over_weights(found: dict[str, float]) -> float:
    """Return the peak without the weights, in GiB."""
    return (found["peak, MB"] - found["weights in memory, MB"]) * 1e6 / 2**30


def growth(found: dict[str, float]) -> float:
    """Return the memory at the end relative to that after a fifth."""
    return found["at the end, MB"] / found["after a fifth, MB"]


FP32, MINILM = "sentence-transformers fp32", "all-MiniLM, sentence-transformers"
STOCK = ("mlx-lm, text by text", "mlx-lm, padded batch", "mlx-embeddings")
ADAPTERS = ("langchain", "llama_index")

BARS: tuple[Bar, ...] = (
    at_least(1.3, "(a) documents, 0.6B, times as fast as sentence-transformers", ratio("large", "(a) documents", FP32)),
    at_least(2.5, "(b) instructed queries, 0.6B, likewise", ratio("large", "(b) instructed queries", FP32)),
    at_most(
        0.8,
        "(c) one query, 0.6B: part of sentence-transformers' time",
        lambda results: 1 / ratio("large", "(c) one query at a time", FP32)(results),
    ),
    at_most(1.5, "(c) over the time to read the weights once", value("large", "limits", "query over memory floor")),
    at_least(40, "(a) some, times as fast as stock MLX", ratio("large", "(a) subset, stock MLX", *STOCK)),
    at_least(0.8, "(a) share of the machine's own matrix products", value("large", "limits", "share of sgemm")),
    at_least(1, "(a) all-MiniLM, times as fast as sentence-transformers", ratio("small", "(a) documents", MINILM)),
    at_least(
        2, "(a) nano, times as fast as sentence-transformers' all-MiniLM", ratio("small", "nano, (a) documents", MINILM)
    ),
    at_least(3, "(d) 64 queries at once, 0.6B, over one by one", ratio("large", "(d) 64 concurrent queries", "one by one")),
    at_least(3, "(d) the same on nano", ratio("small", "(d) nano, 64 concurrent", "one by one")),
    at_least(50_000, "look-ups a second in the memory cache", value("engine", "memory cache", "lookups_per_second")),
    at_most(
        0.05,
        "what the adapters add to the engine's time",
        lambda results: max(results["engine"]["found"]["adapters"][name]["over the engine"] for name in ADAPTERS),
    ),
    at_most(0.15, "import, seconds", value("engine", "fresh process", "import")),
    at_most(
        1.5, "first vector of nano in a new process, seconds", value("engine", "fresh process", "first vector of nano")
    ),
    at_most(5, "first vector of all-MiniLM, likewise", value("engine", "fresh process", "first vector of all-MiniLM")),
    at_most(0.3, "mlx-qwen --help, seconds", value("engine", "fresh process", "mlx-qwen --help")),
    at_most(1.5, "mlx-qwen embed on nano, seconds", value("engine", "fresh process", "mlx-qwen embed on nano")),
    at_least(1000, "short texts a second, all-MiniLM (a wish)", per_second("1,000 short texts")),
    at_most(0.1, "32 short texts, all-MiniLM, seconds", lambda results: 32 / per_second("32 short texts")(results)),
    at_most(1, "memory over the weights, 100,000 texts through nano, GiB", stream("nano", over_weights)),
    at_most(1.05, "its growth over the last four fifths, times", stream("nano", growth)),
    at_most(1, "memory over the weights, 200 documents through the 0.6B, GiB", stream("0.6B", over_weights)),
    at_most(1.05, "its growth, likewise", stream("0.6B", growth)),
)


def bars(results: Results) -> str:
    """Return the table of the targets whose part was run."""
    rows = []
    for what, bar, figure, enough in BARS:
        try:
            found = figure(results)
        except KeyError:  # the part or this case was not run
            continue
        rows.append([what, bar, f"{found:,.3g}" if found < 1000 else f"{found:,.0f}", "yes" if enough(found) else "no"])  # noqa: PLR2004 - significant digits
    return table(["what", "wanted", "found", "met"], rows)
