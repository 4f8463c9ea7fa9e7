"""The BLAS that MLX uses on the CPU of a Linux machine: load it before MLX, set its threads, measure its speed."""

import ctypes
import ctypes.util
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from timeit import repeat
from types import ModuleType

from mlx_qwen_embeddings._extras import pip_command

SLOW_GFLOPS = 12.0
"""A slower matrix product runs on the reference BLAS of MLX's wheel (about 5), not on a real one (50 and more)."""

BLAS_VARIABLE = "MLX_QWEN_BLAS"
THREADS_VARIABLE = "OMP_NUM_THREADS"

logger = logging.getLogger(__name__)

_bound: list[str] = []
_threads: dict[str, int] = {}
_measured: dict[str, float] = {}


def bind() -> str | None:
    """Load a fast BLAS for MLX, unless MLX is already loaded. Return its path, or None if none was loaded."""
    # MLX's CPU wheel brings the reference BLAS. The wheel binds its symbols when it is loaded, so a BLAS that was loaded
    # globally before takes precedence, and one loaded after has no effect.
    if sys.platform != "linux":
        return None
    if "mlx.core" in sys.modules:
        return next(iter(_bound), None)
    for path in _blas_candidates():
        try:
            ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        except OSError as error:
            logger.warning("BLAS %s cannot be loaded: %s", path, error)
        else:
            _bound.append(path)
            return path
    return None


def cores() -> int:
    """Return how many cores this process may use. Two threads on one core multiply no faster than one.

    ``OMP_NUM_THREADS`` is an upper limit, as in every BLAS: Ray sets it to an actor's share of its node.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _physical_cores() or allowed, _wanted_threads() or allowed))


def _wanted_threads() -> int | None:
    outermost = os.environ.get(THREADS_VARIABLE, "").split(",")[0].strip()  # "4,2" sets nested parallel regions too
    return int(outermost) if outermost.isdecimal() else None


@cache  # needed for every batch
def _physical_cores() -> int | None:
    found = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/core_cpus_list")
    return len({path.read_text() for path in found}) or None


def set_threads(path: str | None, number: int) -> None:
    """Make each matrix product use ``number`` threads, if ``bind`` loaded a BLAS from ``path``."""
    if path is None or _threads.get(path) == number:
        return
    library = ctypes.CDLL(path)
    for name in ("MKL_Set_Num_Threads", "openblas_set_num_threads"):
        setter = getattr(library, name, None)
        if setter is not None:
            setter(ctypes.c_int(number))
            break
    _threads[path] = number


def _blas_candidates() -> Iterator[str]:
    wanted = os.environ.get(BLAS_VARIABLE)
    if wanted:
        yield from () if wanted == "none" else (wanted,)
        return
    if path := _mkl():
        yield path
    if path := ctypes.util.find_library("openblas"):  # last, because it starts a process or two
        yield path


def _mkl() -> str | None:
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.name.startswith("libmkl_rt.so")]
    return next((str(path.resolve()) for path in paths if path.exists()), None)


def measure_gflops(mx: ModuleType, size: int = 256, repeats: int = 3) -> float:
    """Time square float32 matrix products and return the best rate in GFLOP/s."""
    a = mx.random.normal((size, size))
    mx.eval(a)
    return float(2 * size**3 / min(repeat(lambda: mx.eval(a @ a), number=1, repeat=repeats + 1)) / 1e9)


def measure_bandwidth(mx: ModuleType, megabytes: int = 512, repeats: int = 5) -> float:
    """Time the product of a row and a matrix too large for any cache, and return the best rate of reading in GB/s."""
    row, matrix = mx.ones((1, 8192)), mx.ones((8192, megabytes * 2**20 // (4 * 8192)))
    mx.eval(row, matrix)
    return float(matrix.nbytes / min(repeat(lambda: mx.eval(row @ matrix), number=1, repeat=repeats)) / 1e9)


def warn_if_slow(mx: ModuleType) -> None:
    """Measure matrix products once per process, and warn if they are slow."""
    if _measured:
        return
    rate = measure_gflops(mx)
    if rate < SLOW_GFLOPS:  # or the cores were busy, for example tokenizing: take the best of many
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
