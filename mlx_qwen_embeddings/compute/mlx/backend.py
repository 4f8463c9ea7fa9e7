"""Which device and type to compute with, and what a thread or process needs before it does."""

import ctypes
import importlib
import os
import platform
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mlx_qwen_embeddings._extras import pip_command
from mlx_qwen_embeddings.compute.mlx.blas import bind, cores, measure_bandwidth, measure_gflops, set_threads, warn_if_slow
from mlx_qwen_embeddings.errors import MissingExtraError, ModelLoadError
from mlx_qwen_embeddings.settings import Device, DType


class DefaultDevice(Protocol):
    """What is needed of ``mlx.core``."""

    def default_device(self) -> Any:
        """Read it."""

    def set_default_device(self, device: Any) -> None:
        """Set it."""


class Turns:
    """Lets any number compute on one device at once, and those on another one after them, in the order they came."""

    def __init__(self) -> None:
        """Nobody computes."""
        self.forget()

    def forget(self) -> None:
        """Start afresh, in a forked child."""
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._device: Any = None
        self._before: Any = None
        self._at_work = 0

    @contextmanager
    def on(self, device: Any, mlx: DefaultDevice) -> Iterator[None]:
        """Make a device the default one in this block; what it was before comes back when nobody computes."""
        self._enter(device, mlx)
        try:
            yield
        finally:
            with self._changed:
                self._at_work -= 1
                if not self._at_work:
                    mlx.set_default_device(self._before)
                self._changed.notify_all()

    def _enter(self, device: Any, mlx: DefaultDevice) -> None:
        me = object()
        with self._changed:
            self._line.append(me)
            try:
                self._changed.wait_for(lambda: self._line[0] is me and (not self._at_work or self._device == device))
                if not self._at_work:
                    self._before, self._device = mlx.default_device(), device
                    mlx.set_default_device(device)
                self._at_work += 1
            finally:
                self._line.remove(me)
                self._changed.notify_all()


CACHE_LIMIT = {"cpu": 64 * 2**20, "gpu": 512 * 2**20}
"""Bytes of freed buffers that MLX may keep: without a limit peers grew from 2 to 24 GB. On the CPU they come from malloc,
and none at all was as fast as 512 MiB."""


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
    blas = bind()
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
    """Prepare the calling thread, which alone will compute, inside of ``computing``, and warn once if the BLAS is slow.

    Raises:
        ModelLoadError: When it is to compute on a GPU that was lost in a fork.
    """
    mx = _import_mlx()
    inherited = parent_computed()
    if inherited and backend.device == "gpu":
        message = "a GPU context does not survive a fork: start processes with multiprocessing.get_context('spawn')"
        raise ModelLoadError(message)
    if not inherited and not _limited.is_set():
        _limited.set()
        # It waits for whatever computes, and keeps all of Python waiting meanwhile.
        mx.set_cache_limit(CACHE_LIMIT[backend.device])
    if backend.device == "cpu" and sys.platform == "linux":
        set_threads(backend.blas, 1)  # on a busy machine several would wait for one another, and look slow
        warn_if_slow(mx)


def measure(backend: Backend) -> tuple[float, float]:
    """Measure products of matrices in GFLOP/s and reading of memory in GB/s, in the calling thread, all cores at work."""
    mx = _import_mlx()
    set_threads(backend.blas, cores())
    try:
        with computing(backend):
            return measure_gflops(mx, size=1024, repeats=5), measure_bandwidth(mx)
    finally:
        release_thread()


@contextmanager
def computing(backend: Backend) -> Iterator[None]:
    """Compute where the back end does in this block, which threads that are started in it may share.

    MLX has one default device a process, which is looked at when an operation is made, whichever thread set it: a batch
    for a GPU that is built while another thread turned to the CPU would be computed there, and the other way round. So
    models on two devices take turns.
    """
    mx = _import_mlx()
    with _turns.on(mx.gpu if backend.device == "gpu" else mx.cpu, mx):
        yield


_turns = Turns()
_limited = threading.Event()


def release_thread() -> None:
    """Clear the calling thread's streams: MLX aborts the process at its exit when a thread that computed ends otherwise."""
    mx = sys.modules.get("mlx.core")
    if mx is not None:
        mx.clear_streams()


_forked = threading.Event()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked.set)
    os.register_at_fork(after_in_child=_turns.forget)


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


def kept_memory() -> int:
    """Give the bytes of freed buffers that MLX keeps in this process for later; at most ``CACHE_LIMIT`` of the device."""
    return int(_import_mlx().get_cache_memory())


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
