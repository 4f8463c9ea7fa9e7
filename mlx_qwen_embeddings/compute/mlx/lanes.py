"""Several streams of the CPU at once: MLX does all but matrix products on one thread a stream."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from mlx_qwen_embeddings.compute.mlx import threads
from mlx_qwen_embeddings.compute.mlx.backend import Backend
from mlx_qwen_embeddings.compute.mlx.blas import cores, set_threads

T = TypeVar("T")

MOST_LANES = 4
"""More cores than this serve the matrix products of each lane instead."""


class Lanes(Generic[T]):
    """Runs the pieces of a batch side by side, one of them in the calling thread."""

    def __init__(self, backend: Backend, number: int | None = None) -> None:
        """Choose how many.

        Args:
            backend: Where to compute; a GPU has one lane.
            number: Most lanes; None takes as many as there are cores, up to ``MOST_LANES``.
        """
        self._backend = backend
        if backend.device == "gpu" or backend.blas is None:
            number = 1
        self.number = number or min(cores(), MOST_LANES)

    def run(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Do the jobs, in this order as lanes come free, and give their results.

        Raises:
            Exception: What the first of them raised; the lanes are free again by then.
        """
        lanes = min(self.number, len(jobs))
        set_threads(self._backend.blas, max(1, cores() // max(1, lanes)))
        if lanes <= 1:
            return [job() for job in jobs]
        shift = _Shift(jobs)
        helpers: list[threads.Running] = []
        with suppress(RuntimeError):  # no thread can be had: fewer lanes do the same
            helpers.extend(threads.start(shift.work, "mlx-qwen-lane") for _ in range(lanes - 1))
        shift.work()
        for helper in helpers:
            helper.join()
        if shift.errors:
            raise shift.errors[0]
        return [shift.results[place] for place in range(len(jobs))]


class _Shift(Generic[T]):
    """The jobs of one call, which lanes take one after the other."""

    def __init__(self, jobs: Sequence[Callable[[], T]]) -> None:
        self.results: dict[int, T] = {}
        self.errors: list[BaseException] = []
        self._jobs = enumerate(jobs)
        self._lock = threading.Lock()

    def work(self) -> None:
        while not self.errors:
            with self._lock:
                place, job = next(self._jobs, (None, None))
            if place is None or job is None:
                return
            try:
                self.results[place] = job()
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller's thread
                self.errors.append(error)
