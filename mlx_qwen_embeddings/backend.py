"""Everything that depends on the platform: which device and type to compute with, and which BLAS MLX binds to."""

import ctypes
import ctypes.util
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from mlx_qwen_embeddings._extras import pip_command
from mlx_qwen_embeddings.errors import MissingExtraError, ModelLoadError
from mlx_qwen_embeddings.settings import Device, DType

CACHE_LIMIT = 512 * 2**20
"""Bytes of freed buffers that MLX may keep: without a limit peers grew from 2 to 24 GB."""

SLOW_GFLOPS = 12.0
"""Below this a matrix product runs on the reference BLAS of MLX's wheel (about 5), not on a real one (50 and more)."""

BLAS_VARIABLE = "MLX_QWEN_BLAS"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backend:
    """Where and how an encoder computes.

    Attributes:
        device: The kind of device.
        dtype: Compute type.
        blas: Library that MLX was bound to by this package; None where none was loaded.
    """

    device: Literal["cpu", "gpu"]
    dtype: Literal["float32", "bfloat16"]
    blas: str | None = None


def choose_backend(device: Device = "auto", dtype: DType = "auto") -> Backend:
    """Bind MLX to a fast BLAS, import it, and choose device and type. Nothing is computed.

    Raises:
        MissingExtraError: When MLX has no back end on this machine; the message gives the pip command.
        ModelLoadError: When a GPU is asked for and MLX has none.
    """
    blas = _bind_blas()
    mx = _import_mlx()
    has_gpu = bool(mx.is_available(mx.gpu))
    if device == "gpu" and not has_gpu:
        message = "device 'gpu' was asked for, but MLX sees no GPU here: use device='cpu' or 'auto'"
        raise ModelLoadError(message)
    chosen: Literal["cpu", "gpu"] = "gpu" if has_gpu and device != "cpu" else "cpu"
    if dtype == "auto":
        dtype = "float32" if chosen == "cpu" else "bfloat16"
    return Backend(chosen, dtype, blas)


def claim_thread(backend: Backend) -> None:
    """Prepare the calling thread, which alone will compute, and warn once if the BLAS is slow.

    Raises:
        ModelLoadError: When it is to compute on a GPU that was lost in a fork.
    """
    mx = _import_mlx()
    inherited = parent_computed()
    if inherited and backend.device == "gpu":
        message = "a GPU context does not survive a fork: start processes with multiprocessing.get_context('spawn')"
        raise ModelLoadError(message)
    mx.set_default_device(mx.gpu if backend.device == "gpu" else mx.cpu)
    if not inherited:
        mx.set_cache_limit(CACHE_LIMIT)
    if backend.device == "cpu" and sys.platform == "linux":
        _warn_if_slow(mx)


_forked = threading.Event()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked.set)


def parent_computed() -> bool:
    """Whether MLX computed in this process before the fork that made it.

    Then it still knows the parent's streams and readers of files, whose threads do not exist here: setting the limit on
    freed buffers (the parent's holds), giving them back, and ``mx.load`` would wait for ever.
    """
    return _forked.is_set() and _import_mlx().get_peak_memory() > 0


def free_buffers() -> None:
    """Give freed buffers back to the system, where MLX can do so."""
    if not parent_computed():
        _import_mlx().clear_cache()


def return_memory() -> None:
    """Give memory that the allocator keeps back to the system, after much was freed.

    MLX's arrays of the CPU come from malloc. glibc keeps those below 32 MB once they are freed: models that took turns
    grew a process by 300 MB each.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def _import_mlx() -> Any:
    if sys.platform == "darwin" and platform.machine() != "arm64":
        message = (
            "MLX needs an Apple Silicon Mac and a native arm64 Python; this Python is built for "
            f"{platform.machine()} (an Intel Mac, or Rosetta): install an arm64 one, then pip install mlx-qwen-embeddings"
        )
        raise MissingExtraError(message)
    try:
        return importlib.import_module("mlx.core")
    except ImportError as error:
        commands = " or ".join(pip_command(extra) for extra in ("cpu", "cuda13", "cuda12"))
        message = f"MLX has no back end here ({error}). On Linux one extra picks it: {commands}"
        raise MissingExtraError(message) from error


def _bind_blas() -> str | None:
    # The CPU wheel of MLX brings the reference BLAS. A library loaded for all to see before MLX wins over it; later it
    # would have no effect, since the wheel binds its symbols when it is loaded.
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    for path in _blas_candidates():
        try:
            ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        except OSError as error:
            logger.warning("BLAS %s cannot be loaded: %s", path, error)
        else:
            return path
    return None


def _blas_candidates() -> list[str]:
    wanted = os.environ.get(BLAS_VARIABLE)
    if wanted:
        return [] if wanted == "none" else [wanted]
    found = [_mkl(), ctypes.util.find_library("openblas")]
    return [path for path in found if path]


def _mkl() -> str | None:
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.name.startswith("libmkl_rt.so")]
    return next((str(path.resolve()) for path in paths if path.exists()), None)


_measured: dict[str, float] = {}


def measure_gflops(mx: ModuleType, size: int = 256, repeats: int = 3) -> float:
    """Time square float32 matrix products and give the best rate in GFLOP/s."""
    a = mx.random.normal((size, size))
    mx.eval(a)
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        mx.eval(a @ a)
        best = min(best, time.perf_counter() - start)
    return float(2 * size**3 / best / 1e9)


def _warn_if_slow(mx: ModuleType) -> None:
    if _measured:
        return
    rate = measure_gflops(mx)
    if rate < SLOW_GFLOPS:  # or the processors were busy, with the tokenizer for one: the best of many tells
        rate = max(rate, measure_gflops(mx, repeats=30))
    _measured["gflops"] = rate
    if rate < SLOW_GFLOPS:
        logger.warning(
            "matrix products run at %.0f GFLOP/s, on the reference BLAS of MLX's wheel: 20 to 95 times slower than needed. "
            "Install a fast one with %s (or Debian's libopenblas0-pthread), and import mlx_qwen_embeddings' engine before "
            "anything imports mlx.core.",
            rate,
            pip_command("cpu"),
        )
