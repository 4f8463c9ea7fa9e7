"""Checkpoints of full size with seeded random weights: the 0.6B beside transformers, 4B and 8B loaded in four bits.

    python tests/parity/make_large.py [--folder FOLDER] [--memory GB] [0.6B] [4B] [8B]

Needs the dependency group ``reference`` for 0.6B. Every step runs in its own process, so that its peak memory can be seen.

Measured on two cores of a Linux CPU: 0.6B, unpacked to float32, peaked at 3.41 GiB with 1.1 GiB stored. Kept packed by
``--memory``, 4B peaked at 2.67 GiB with 2.11 GiB stored, and 8B (``--memory 4``) at 4.94 GiB with 3.96 GiB stored, in 119
seconds. Without ``--memory``, 4B and 8B are unpacked if there is room, to 15 and 28 GiB. The check fails if the peak is
more than 1 GiB above the weights, plus the stored size if they are unpacked. The lowest cosine of 0.6B to transformers was
1.000000000.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings.compute.mlx.backend import choose_backend

BACKEND = choose_backend("cpu")  # before MLX is imported, so that it finds the fast BLAS

import mlx.core as mx  # noqa: E402 - as said above

SIZES = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
GROUP, BITS = 64, 4
LEAST_COSINE = 0.999999
SPARE = 2**30
"""Bytes that loading and running may take besides the weights: Python, MLX, the largest matrix, the batch."""

LENGTHS = {"0.6B": (1, 7, 33, 64, 128), "4B": (1, 9), "8B": (1, 9)}
"""Tokens of each row: few for the large models, whose packed products are slow on a CPU."""


def config(size: str) -> dict[str, Any]:
    """Return ``config.json``, like those of the real models."""
    said = SIZES[size] | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_669,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "max_position_embeddings": 32_768,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    return said if size == "0.6B" else said | {"quantization": {"group_size": GROUP, "bits": BITS}}


def parts(size: str) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield the shapes of each file: first the embeddings and the last norm, then one layer after another."""
    said = config(size)
    hidden, inner = said["hidden_size"], said["intermediate_size"]
    query, key_value = said["num_attention_heads"] * 128, 8 * 128
    yield {"embed_tokens.weight": (said["vocab_size"], hidden), "norm.weight": (hidden,)}
    for layer in range(said["num_hidden_layers"]):
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_norm.weight": (128,),
            "self_attn.k_norm.weight": (128,),
            "self_attn.q_proj.weight": (query, hidden),
            "self_attn.k_proj.weight": (key_value, hidden),
            "self_attn.v_proj.weight": (key_value, hidden),
            "self_attn.o_proj.weight": (hidden, query),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        yield {f"layers.{layer}.{name}": shape for name, shape in shapes.items()}


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...], *, packed: bool) -> dict[str, mx.array]:
    """Draw an array: norms near 1, matrices with a deviation of 1 / sqrt(width), so that activations keep their size."""
    if len(shape) == 1:
        return {name: mx.array(1 + 0.1 * rng.standard_normal(shape, dtype=np.float32)).astype(mx.bfloat16)}
    rows, width = shape
    if not packed:
        values = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(np.float32(width))
        return {name: mx.array(values).astype(mx.bfloat16)}
    # scale * (q - 7.5) with q from 0 to 15, which has a deviation of sqrt((16**2 - 1) / 12) = 4.61.
    step = 1 / (4.61 * np.sqrt(width))
    words = rng.integers(0, 2**32, (rows, width * BITS // 32), dtype=np.uint32)
    stem = name.removesuffix("weight")
    groups = (rows, width // GROUP)
    return {
        name: mx.array(words),
        f"{stem}scales": mx.full(groups, step, dtype=mx.bfloat16),
        f"{stem}biases": mx.full(groups, -7.5 * step, dtype=mx.bfloat16),
    }


def write(folder: Path, size: str) -> None:
    """Write a checkpoint file by file, so that only one file is in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(size)))
    rng = np.random.default_rng(0)
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(parts(size)):
        file = f"model-{number:05}.safetensors"
        arrays: dict[str, mx.array] = {}
        for name, shape in shapes.items():
            arrays |= draw(rng, name, shape, packed=size != "0.6B")
        mx.save_safetensors(str(folder / file), arrays, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(arrays, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def rows(size: str) -> list[NDArray[np.int32]]:
    """Draw token ids from the whole vocabulary."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, 151_643, length, dtype=np.int32) for length in LENGTHS[size]]


def encode(folder: Path, size: str, memory: float | None) -> tuple[NDArray[np.float32], int]:
    """Return this package's pooled vectors, and how many bytes the weights take in memory."""
    from mlx_qwen_embeddings.checkpoint.files import ModelFiles
    from mlx_qwen_embeddings.compute.encoder import Encoder

    with pytest.MonkeyPatch.context() as patch:
        if memory is not None:
            patch.setattr("mlx_qwen_embeddings.compute.loading.available_memory", lambda: int(memory * 1e9))
        encoder = Encoder(ModelFiles(folder), BACKEND)
    weights, _ = encoder.memory
    vectors = encoder.encode(rows(size), "last")
    encoder.release()
    return vectors, weights


def reference(folder: Path, size: str) -> NDArray[np.float32]:
    """Return the last hidden states of transformers in float32, one row at a time."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        states = [model(torch.from_numpy(row[None].astype(np.int64))).last_hidden_state[0, -1] for row in rows(size)]
    return np.stack([state.numpy() for state in states])


def step(folder: Path, size: str, what: str, memory: float | None) -> None:
    """Do one step and print its time and peak."""
    start, weights = time.perf_counter(), 0
    if what == "write":
        write(folder, size)
    elif what == "ours":
        vectors, weights = encode(folder, size, memory)
        np.save(folder / "ours.npy", vectors)
    else:
        np.save(folder / "theirs.npy", reference(folder, size))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (2**10 if sys.platform == "linux" else 1)
    (folder / f"{what}.memory").write_text(json.dumps({"peak": peak, "weights": weights}))
    sys.stdout.write(f"{size} {what}: {time.perf_counter() - start:.0f} s, peak {peak / 2**30:.2f} GiB\n")


def check(folder: Path, size: str) -> bool:
    """Check the results of the steps, and print what was found."""
    ours = np.load(folder / "ours.npy").astype(np.float64)
    finite = bool(np.isfinite(ours).all() and (np.linalg.norm(ours, axis=1) > 0).all())
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    memory = json.loads((folder / "ours.memory").read_text())
    # While weights are unpacked, the stored ones are in memory too.
    bound = memory["weights"] + SPARE + (stored if memory["weights"] > 1.5 * stored else 0)
    fits = memory["peak"] <= bound
    sys.stdout.write(
        f"{size}: {stored / 2**30:.2f} GiB stored, {memory['weights'] / 2**30:.2f} GiB in memory, the peak is "
        f"{'within' if fits else 'ABOVE'} {bound / 2**30:.2f} GiB; vectors {'finite' if finite else 'NOT FINITE'}\n"
    )
    if size != "0.6B":
        return finite and fits
    theirs = np.load(folder / "theirs.npy").astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    worst = float((np.einsum("nd,nd->n", ours, theirs) / norms).min())
    sys.stdout.write(f"{size}: least cosine to transformers {worst:.9f}, must exceed {LEAST_COSINE}\n")
    return finite and fits and worst > LEAST_COSINE


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=list(SIZES), help=f"of {', '.join(SIZES)}; all otherwise")
    parser.add_argument("--folder", type=Path, help="where the checkpoints go; a temporary folder otherwise")
    parser.add_argument("--memory", type=float, help="free memory to assume, in GB, instead of asking the system")
    parser.add_argument("--step", choices=["write", "ours", "theirs"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.sizes) - set(SIZES):
        parser.error(f"unknown size {', '.join(unknown)}: choose from {', '.join(SIZES)}")
    if given.step:
        step(given.folder, given.sizes[0], given.step, given.memory)
        return
    good = True
    for size in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            for what in ("write", "ours", "theirs") if size == "0.6B" else ("write", "ours"):
                memory = [] if given.memory is None else ["--memory", str(given.memory)]
                command = [sys.executable, __file__, size, "--folder", scratch, "--step", what, *memory]
                subprocess.run(command, check=True)
            good &= check(Path(scratch), size)
    sys.exit(not good)


if __name__ == "__main__":
    main()
