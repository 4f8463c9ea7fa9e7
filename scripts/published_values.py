"""Write the scores that sentence-transformers computes for an MLX-quantised Qwen3 model, for ``verify`` to compare with.

    python scripts/published_values.py mlx_qwen_embeddings/nano mlx_qwen_embeddings/tools/verify/published/nano.json

Needs the dependency group ``reference``. The weights are unpacked to float32 first, because
sentence-transformers cannot read packed ones.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx
from sentence_transformers import SentenceTransformer

QUERIES = ["What is the capital of China?", "Explain gravity"]
DOCUMENTS = [
    "The capital of China is Beijing.",
    (
        "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
        "responsible for the movement of planets around the sun."
    ),
]
TEXT, COORDINATES = "hello world", 5


def unpacked(source: Path, target: Path) -> Path:
    """Copy a model's folder with its weights in float32; return the copy."""
    shutil.copytree(source, target)
    config = json.loads((source / "config.json").read_text("utf-8"))
    packing = config.pop("quantization")
    weights: Any = mx.load(str(source / "model.safetensors"))
    plain = {name: array.astype(mx.float32) for name, array in weights.items() if array.dtype != mx.uint32}
    for name in [name for name in weights if name.endswith(".scales")]:
        layer = name.removesuffix(".scales")
        scales, biases = plain.pop(name), plain.pop(f"{layer}.biases")
        own = packing.get(f"model.{layer}", packing)  # a layer may have settings of its own
        packed = weights[f"{layer}.weight"]
        plain[f"{layer}.weight"] = mx.dequantize(packed, scales, biases, own["group_size"], own["bits"])
    mx.save_safetensors(str(target / "model.safetensors"), plain, metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    return target


def values(folder: Path) -> dict[str, Any]:
    """Return the scores of all queries and documents, and the first coordinates of one text as query and document."""
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    queries = model.encode_query(QUERIES, normalize_embeddings=True)
    documents = model.encode_document(DOCUMENTS, normalize_embeddings=True)
    hello = {"document": model.encode_document(TEXT), "query": model.encode_query(TEXT)}
    cosine = [[round(float(score), 6) for score in row] for row in queries @ documents.T]
    return {
        "scores": {"queries": QUERIES, "documents": DOCUMENTS, "cosine": cosine},
        "vectors": [
            {"role": role, "text": TEXT, "first": [round(float(value), 6) for value in vector[:COORDINATES]]}
            for role, vector in hello.items()
        ],
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    folder, output = arguments.folder, arguments.output
    stored = (folder / "model.safetensors").read_bytes()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("sentence-transformers", "transformers", "torch"))
    with tempfile.TemporaryDirectory() as scratch:
        published = {
            "name": folder.name,
            "source": f"{versions}, float32 on the CPU, weights unpacked to float32",
            "made_with": f"python {' '.join(sys.argv)}",
            "precision": 1e-4,
            "weights": {"bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()},
            "prompts": json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))["prompts"],
            **values(unpacked(folder, Path(scratch) / folder.name)),
        }
    output.write_text(json.dumps(published, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
