"""Choose the device and dtype to compute with, and prepare a thread or process to compute there."""

import ctypes
import importlib
import platform
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from mlx_qwen_embeddings._extras import pip_command
from mlx_qwen_embeddings._fork import Forkable, Stage, is_forked, protect
from mlx_qwen_embeddings.compute.mlx.blas import bind, cores, measure_bandwidth, measure_gflops, set_threads, warn_if_slow
from mlx_qwen_embeddings.errors import MissingExtraError, ModelLoadError
from mlx_qwen_embeddings.settings import Device, DType

CACHE_LIMIT = {"cpu": 64 * 2**20, "gpu": 512 * 2**20}
"""Bytes of freed buffers that MLX may keep. Without a limit, similar programs grew from 2 to 24 GB. On the CPU the buffers
come from malloc, and keeping none at all was as fast as keeping 512 MiB."""


class DeviceLock(Forkable):
    """Let any number of threads compute on one device while those for another device wait, first come, first served.

    MLX has one default device per process, and every operation looks at it when it is built, whichever thread set it. A
    batch for the GPU that is built while another thread has switched to the CPU would be computed on the CPU.
    """

    def __init__(self) -> None:
        self.after_fork_in_child()
        protect(self, Stage.LOCKING)

    def after_fork_in_child(self) -> None:
        """Unlock: the threads that held the lock do not exist here."""
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._device: Any = None
        self._previous: Any = None
        self._holders = 0

    @contextmanager
    def hold(self, device: Any, mlx: Any) -> Iterator[None]:
        """Make ``device`` MLX's default device in this block. The last thread to leave restores the previous one."""
        self._acquire(device, mlx)
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                if not self._holders:
                    mlx.set_default_device(self._previous)
                self._changed.notify_all()

    def _acquire(self, device: Any, mlx: Any) -> None:
        me = object()
        with self._changed:
            self._queue.append(me)
            try:
                self._changed.wait_for(lambda: self._queue[0] is me and (not self._holders or self._device == device))
                if not self._holders:
                    self._previous, self._device = mlx.default_device(), device
                    mlx.set_default_device(device)
                self._holders += 1
            finally:
                self._queue.remove(me)
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Backend:
    """Where and how an encoder computes.

    Attributes:
        device: "cpu" or "gpu".
        dtype: The type to compute in.
        blas: Path of the BLAS that this package loaded for MLX; None when it loaded none.
    """

    device: Literal["cpu", "gpu"]
    dtype: Literal["float32", "bfloat16"]
    blas: str | None = None


def choose_backend(device: Device = "auto", dtype: DType = "auto") -> Backend:
    """Load a fast BLAS for MLX, import MLX, and choose device and dtype. Nothing is computed.

    Raises:
        MissingExtraError: If MLX has no back end on this machine; the message gives the pip command.
        ModelLoadError: If a GPU is asked for and MLX has none.
    """
    blas = bind()
    mx = _import_mlx()
    has_gpu = bool(mx.is_available(mx.gpu))
    if device == "gpu" and not has_gpu:
        raise ModelLoadError("device 'gpu' was asked for, but MLX sees no GPU here: use device='cpu' or 'auto'")
    chosen: Literal["cpu", "gpu"] = "gpu" if has_gpu and device != "cpu" else "cpu"
    if dtype == "auto":
        dtype = "float32" if chosen == "cpu" else "bfloat16"
    return Backend(chosen, dtype, blas)


def claim_thread(backend: Backend) -> None:
    """Prepare the calling thread to compute, and warn once if the BLAS is slow. Call it inside ``computing``.

    Raises:
        ModelLoadError: If the thread is to compute on a GPU whose context was lost in a fork.
    """
    mx = _import_mlx()
    inherited = parent_computed()
    if inherited and backend.device == "gpu":
        raise ModelLoadError(
            "a GPU context does not survive a fork: start processes with multiprocessing.get_context('spawn')"
        )
    if not inherited and not _limited.is_set():
        _limited.set()
        # This waits for every running computation, with the GIL held.
        mx.set_cache_limit(CACHE_LIMIT[backend.device])
    if backend.device == "cpu" and sys.platform == "linux":
        set_threads(backend.blas, 1)  # several would wait for one another on a busy machine, and look slow
        warn_if_slow(mx)


def measure(backend: Backend) -> tuple[float, float]:
    """Measure matrix products in GFLOP/s and memory reads in GB/s, using all cores from the calling thread."""
    mx = _import_mlx()
    set_threads(backend.blas, cores())
    try:
        with computing(backend):
            return measure_gflops(mx, size=1024, repeats=5), measure_bandwidth(mx)
    finally:
        release_thread()


@contextmanager
def computing(backend: Backend) -> Iterator[None]:
    """Compute on the back end's device in this block, also in threads that are started in it."""
    mx = _import_mlx()
    with _device_lock.hold(mx.gpu if backend.device == "gpu" else mx.cpu, mx):
        yield


_device_lock = DeviceLock()
_limited = threading.Event()


def release_thread() -> None:
    """Clear the calling thread's streams. MLX aborts the process at exit if a thread that computed ended without this."""
    mx = sys.modules.get("mlx.core")
    if mx is not None:
        mx.clear_streams()


def parent_computed() -> bool:
    """Return whether this process was forked from one in which MLX had computed.

    MLX then still refers to the parent's streams and file readers, whose threads do not exist here. ``set_cache_limit``,
    ``clear_cache`` and ``mx.load`` would wait for them for ever. The parent's cache limit stays in force.
    """
    return is_forked() and _import_mlx().get_peak_memory() > 0


def free_buffers() -> None:
    """Make MLX release its freed buffers, unless it would hang doing so."""
    if not parent_computed():
        _import_mlx().clear_cache()


def kept_memory() -> int:
    """Return the bytes of freed buffers that MLX keeps for reuse, at most ``CACHE_LIMIT`` of the device."""
    return int(_import_mlx().get_cache_memory())


def return_memory() -> None:
    """Make the allocator release unused memory to the system, after a model was freed.

    MLX's arrays on the CPU come from malloc, and glibc keeps freed arrays below 32 MB: loading one model after another
    grew a process by 300 MB each time.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)


def _import_mlx() -> Any:
    if sys.platform == "darwin" and platform.machine() != "arm64":
        raise MissingExtraError(
            "MLX needs an Apple Silicon Mac and a native arm64 Python; this Python is built for "
            f"{platform.machine()} (an Intel Mac, or Rosetta): install an arm64 one, then pip install mlx-qwen-embeddings"
        )
    try:
        return importlib.import_module("mlx.core")
    except ImportError as error:
        commands = " or ".join(pip_command(extra) for extra in ("cpu", "cuda13", "cuda12"))
        raise MissingExtraError(f"MLX has no back end here ({error}). On Linux one extra picks it: {commands}") from error
