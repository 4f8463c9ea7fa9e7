#!/usr/bin/env bash
# Install a wheel or an sdist into an empty environment, and embed with it from a folder outside the source tree.
# Usage: scripts/check_dist.sh dist/mlx_qwen_embeddings-0.1.0-py3-none-any.whl [python3.12]
set -euo pipefail

archive=$(realpath "$1")
python=${2:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
backend=""
if [ "$(uname -s)" = Linux ]; then backend="[cpu]"; fi

"$python" -m venv "$place/venv"
cd "$place"
venv/bin/python -m pip install --quiet --disable-pip-version-check "$archive$backend"
# -I keeps the current folder and PYTHONPATH off the import path. The empty home has no model cache to fall back on.
HOME="$place/home" HF_HUB_OFFLINE=1 venv/bin/python -I - <<'PYTHON'
from importlib import metadata, resources
from pathlib import Path
import sysconfig

import numpy as np

import mlx_qwen_embeddings

site = Path(sysconfig.get_path("purelib")).resolve()
package = Path(mlx_qwen_embeddings.__file__).resolve().parent
assert package.is_relative_to(site), f"imported from {package}, not from {site}"
assert (package / "py.typed").is_file(), "py.typed is missing"
assert (package / "nano" / "model.safetensors").is_file(), "the embedded model's weights are missing"
requirements = metadata.requires("mlx-qwen-embeddings") or []
assert any(line.startswith("mlx>=") for line in requirements), requirements

with mlx_qwen_embeddings.EmbeddingEngine("nano") as engine:
    documents = engine.embed_documents(["A cat sleeps on the sofa.", "The central bank raised interest rates."])
    query = engine.embed_query("a sleepy kitten")
    shape = (2, engine.dimensions)
assert documents.dtype == np.float32 and documents.shape == shape, (documents.dtype, documents.shape)
assert np.allclose(np.linalg.norm(documents, axis=1), 1, atol=1e-5)
near, far = documents @ query
assert near > far + 0.2, (near, far)
print(f"{metadata.version('mlx-qwen-embeddings')} from {package}: cat {near:.3f}, bank {far:.3f}")
PYTHON
