"""torch, numpy and the engine give correct results in one process, each with its own BLAS and threads."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

STEPS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np

# Sums of such products are exact in float32, and numpy multiplies integers without a BLAS.
A, B = np.random.default_rng(0).integers(-8, 9, (2, 700, 700))
EXACT = A @ B
TEXTS = ["What is gravity?", "", "naïve café", *(f"{'over and over ' * (n % 50)}{n}" for n in range(60))]
facts, vectors = {}, []

def numpy_multiplies():
    for dtype in (np.float32, np.float64):
        assert np.array_equal(A.astype(dtype) @ B.astype(dtype), EXACT)

def torch_multiplies():
    import torch
    threads = facts.setdefault("threads of torch", torch.get_num_threads())
    assert torch.get_num_threads() == threads
    for dtype in (torch.float32, torch.float64):
        assert np.array_equal((torch.tensor(A, dtype=dtype) @ torch.tensor(B, dtype=dtype)).numpy(), EXACT)

def engine_embeds():
    from mlx_qwen_embeddings import EmbeddingEngine
    from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
    facts["blas"] = choose_backend("cpu").blas
    with EmbeddingEngine("nano", device="cpu", cache_bytes=0) as engine:
        vectors.append(engine.embed_documents(TEXTS))

def all_at_once():
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(step) for step in (engine_embeds, torch_multiplies, numpy_multiplies)]:
            done.result()
"""

END = """
np.save(sys.argv[1], np.stack(vectors))
print(json.dumps(facts))
"""

ORDERS = {
    "torch first": ("torch_multiplies", "numpy_multiplies", "engine_embeds", "torch_multiplies", "numpy_multiplies"),
    "the engine first": ("engine_embeds", "torch_multiplies", "numpy_multiplies", "engine_embeds"),
    "torch first, then all at once": ("torch_multiplies", "engine_embeds", "all_at_once"),
}


def run(steps: tuple[str, ...], path: Path) -> tuple[dict[str, str | int | None], NDArray[np.float32]]:
    """Run the steps in a fresh process. Return what it reports, and the vectors of each time the engine embedded."""
    program = STEPS + "".join(f"{step}()\n" for step in steps) + END
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "GFLOP/s" not in done.stderr, "the warning of a slow BLAS"
    found: NDArray[np.float32] = np.load(path)
    return json.loads(done.stdout), found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str | int | None], NDArray[np.float32]]:
    return run(("engine_embeds",), tmp_path_factory.mktemp("alone") / "vectors.npy")


@pytest.mark.parametrize("order", ORDERS)
def test_they_do_not_disturb_each_other(
    order: str, alone: tuple[dict[str, str | int | None], NDArray[np.float32]], tmp_path: Path
) -> None:
    facts, vectors = run(ORDERS[order], tmp_path / "vectors.npy")
    expected_facts, (expected,) = alone
    assert facts["blas"] is not None
    assert facts["blas"] == expected_facts["blas"]
    for found in vectors:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
