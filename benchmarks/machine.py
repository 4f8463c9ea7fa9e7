"""Measure the machine itself, with this package's BLAS: float32 matrix products and memory reads."""

import json
import platform
from pathlib import Path
from timeit import repeat

import numpy as np


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure() -> dict[str, object]:
    """Measure in this process, which must not have imported MLX."""
    from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
    from mlx_qwen_embeddings.compute.mlx.blas import cores, measure_bandwidth, set_threads

    backend = choose_backend("cpu")
    import mlx.core as mx

    mx.set_default_device(mx.cpu)  # even if there is a GPU
    set_threads(backend.blas, cores())
    a, b = mx.random.normal((512, 1024)), mx.random.normal((1024, 3072))
    mx.eval(a, b)
    product = min(repeat(lambda: mx.eval(a @ b), number=1, repeat=7))
    return {
        "processor": processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "blas": Path(backend.blas).name if backend.blas else None,
        "sgemm_gflops": 2 * 512 * 1024 * 3072 / product / 1e9,
        "bandwidth_gb_s": measure_bandwidth(mx),
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
