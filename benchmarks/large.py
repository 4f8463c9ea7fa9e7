"""Compare peers on the 0.6B's shape with random float32 weights: documents, instructed queries, single queries."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.arithmetic import flops, weight_bytes
from benchmarks.checkpoint import make
from benchmarks.record import machine
from benchmarks.rounds import Child, Order, compare
from benchmarks.texts import documents

DOCUMENTS: Order = {"texts": "documents"}
QUERIES: Order = {"texts": "queries", "query": True}
FEW: Order = {"texts": "documents", "with": {"number": 6, "longest": 40}}
"""What stock MLX with its reference BLAS can do in a minute."""

SOME: dict[str, Order] = {
    "documents without": {**DOCUMENTS, "with": {"number": 24}},
    "queries without": {**QUERIES, "slice": (48,)},
}
"""The orders with which each shortcut's gain is measured."""

SHORTCUTS = ("lanes", "pieces", "attention", "silu", "exp", "order", "step", "prompt", "settled", "last_token")


def run(work: Path, rounds: int) -> dict[str, Any]:
    """Run all cases, and return the results by case."""
    model, prefixed = str(make(work / "0.6B")), str(make(work / "0.6B-prefixed", "model."))
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        ours, theirs, half = (
            stack.enter_context(Child(peer, model))
            for peer in ("ours", "sentence-transformers", "sentence-transformers:bfloat16")
        )
        three = {"ours": ours, "sentence-transformers fp32": theirs, "sentence-transformers bf16": half}

        def case(name: str, order: Order, times: int = rounds) -> None:
            found[name] = compare({peer: (child, order) for peer, child in three.items()}, times, work, name)

        before = machine()
        case("(a) documents", DOCUMENTS)
        found["limits"] = limits(model, found["(a) documents"]["ours"], [before, machine()])
        case("(b) instructed queries", QUERIES)
        case("(c) one query at a time", {**QUERIES, "slice": (12,), "how": "one by one"}, rounds * 2 + 1)
        one = found["(c) one query at a time"]["ours"]
        found["limits"]["query over memory floor"] = one["median"] / one["texts"] / found["limits"]["memory floor, s"]
        calls = {"together": (ours, {**QUERIES, "slice": (64,), "how": "together"})}
        calls["one by one"] = (ours, {**QUERIES, "slice": (64,), "how": "one by one"})
        found["(d) 64 concurrent queries"] = compare(calls, rounds, work, "(d)")
    with ExitStack() as stack:
        peers = {"ours": "ours", "mlx-lm, text by text": "mlx-lm", "mlx-lm, padded batch": "mlx-lm:32"}
        peers["mlx-embeddings"] = "mlx-embeddings"
        children = {name: stack.enter_context(Child(peer, prefixed)) for name, peer in peers.items()}
        asked = {name: (child, FEW) for name, child in children.items()}
        found["(a) subset, stock MLX"] = compare(asked, max(1, rounds // 2), work, "(a) subset")
    found |= shortcuts(model, work, max(1, rounds // 2))
    return found


def shortcuts(model: str, work: Path, rounds: int) -> dict[str, Any]:
    """Switch every shortcut off in turn, and compare times and vectors with those of the whole."""
    found: dict[str, Any] = {case: {} for case in SOME}
    with Child("ours", model) as whole:
        for name in SHORTCUTS:
            with Child(f"ours:{name}", model) as without:
                for case, order in SOME.items():
                    pair = {"ours": (whole, order), name: (without, order)}
                    found[case][name] = compare(pair, rounds, work, f"{case} {name}")[name]
    return found


def limits(model: str, ours: dict[str, Any], machines: list[dict[str, Any]]) -> dict[str, float]:
    """Compare the documents with the machine's matrix products, and return the shortest possible time of a query."""
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    lengths = [min(512, len(encoding.ids)) for encoding in tokenizer.encode_batch(documents())]
    rate = flops(lengths) / ours["median"] / 1e9
    sgemm = sum(one["sgemm_gflops"] for one in machines) / len(machines)
    bandwidth = sum(one["bandwidth_gb_s"] for one in machines) / len(machines)
    return {
        "documents, tokens": sum(lengths),
        "documents, GFLOP/s": rate,
        "sgemm, GFLOP/s": sgemm,
        "share of sgemm": rate / sgemm,
        "memory, GB/s": bandwidth,
        "memory floor, s": weight_bytes() / bandwidth / 1e9,
    }
