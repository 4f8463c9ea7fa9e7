"""Compare MLX's CUDA back end with sentence-transformers on the same card, in bfloat16 with SDPA.

    python -m benchmarks.cuda --work FOLDER [--rounds 5]

Needs an NVIDIA GPU with the extra ``cuda12`` or ``cuda13``, and torch for CUDA. Writes ``results/cuda.json``.
"""

import argparse
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.arithmetic import flops
from benchmarks.checkpoint import make
from benchmarks.record import record
from benchmarks.rounds import Child, compare
from benchmarks.small import minilm
from benchmarks.texts import documents
from tests.support.checkpoints import write_unpacked

CASES: dict[str, dict[str, Any]] = {
    "(a) documents": {"texts": "documents", "with": {"number": 1024}},
    "(b) instructed queries": {"texts": "queries", "query": True, "with": {"number": 2048}},
}

RATE = """
import json, time
import mlx.core as mx
a, b = (mx.random.normal((8192, 8192)).astype(mx.bfloat16) for _ in range(2))
mx.eval(a @ b)
start = time.perf_counter()
mx.eval([a @ b for _ in range(20)])
print(json.dumps(20 * 2 * 8192**3 / (time.perf_counter() - start) / 1e12))
"""


def beside(model: str, work: Path, rounds: int) -> dict[str, Any]:
    """Compare both on one model."""
    found = {}
    with ExitStack() as stack:
        ours = stack.enter_context(Child("ours::gpu", model))
        theirs = stack.enter_context(Child("sentence-transformers:bfloat16:cuda", model))
        for name, order in CASES.items():
            peers = {"ours": (ours, order), "sentence-transformers bf16": (theirs, order)}
            found[f"{name}, {Path(model).name}"] = compare(peers, rounds, work, f"{Path(model).name} {name}")
    return found


def packed(model: str, work: Path, rounds: int) -> dict[str, Any]:
    """Compare affine 4 and 8 bits with bfloat16, all in this package."""
    folders = {"bf16": model}
    for bits in ("8", "4"):
        folders[f"{bits} bits"] = str(work / f"packed-{bits}")
        if not Path(folders[f"{bits} bits"]).exists():
            convert = [sys.executable, "-m", "mlx_qwen_embeddings", "convert", model, folders[f"{bits} bits"]]
            subprocess.run([*convert, "--bits", bits, "--no-report"], check=True)
    with ExitStack() as stack:
        children = {name: stack.enter_context(Child("ours::gpu", folder)) for name, folder in folders.items()}
        return {
            f"packed, {case}": compare(
                {name: (child, order) for name, child in children.items()}, rounds, work, f"packed {case}"
            )
            for case, order in CASES.items()
        }


def run(work: Path, rounds: int) -> dict[str, Any]:
    """Run all cases, and return the results by case."""
    large = make(work / "0.6B")
    said = subprocess.run([sys.executable, "-c", RATE], check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = {}
    for model in (str(large), minilm(), str(write_unpacked(work / "nano"))):
        found |= beside(model, work, rounds)
    tokenizer, rate = Tokenizer.from_file(str(large / "tokenizer.json")), float(said)
    ours = found[f"(a) documents, {large.name}"]["ours"]
    lengths = [min(512, len(encoding.ids)) for encoding in tokenizer.encode_batch(documents(ours["texts"]))]
    reached = flops(lengths) / ours["median"] / 1e12
    found["limits"] = {"bf16 products, TFLOP/s": rate, "documents, TFLOP/s": reached, "share": reached / rate}
    return found | packed(str(large), work, rounds)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="folder for checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    record("cuda", given.rounds, partial(run, given.work, given.rounds))


if __name__ == "__main__":
    main()
