"""Run several streams on the CPU at once: MLX computes everything but matrix products on one thread per stream."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from mlx_qwen_embeddings.compute.mlx import threads
from mlx_qwen_embeddings.compute.mlx.backend import Backend
from mlx_qwen_embeddings.compute.mlx.blas import cores, set_threads

T = TypeVar("T")

MOST_LANES = 4
"""Cores beyond this number speed up the matrix products of each lane instead."""


class Lanes(Generic[T]):
    """Run the pieces of a batch side by side; the calling thread is one of the lanes."""

    def __init__(self, backend: Backend, number: int | None = None) -> None:
        """Choose the number of lanes.

        Args:
            backend: Where to compute. A GPU has one lane.
            number: The number of lanes; None takes one per core, up to ``MOST_LANES``.
        """
        self._backend = backend
        if backend.device == "gpu" or backend.blas is None:
            number = 1
        self.number = number or min(cores(), MOST_LANES)

    def run(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run the jobs, started in this order as lanes become free, and return their results.

        Raises:
            BaseException: What the first failing job raised, once no lane is running.
        """
        lanes = min(self.number, len(jobs))
        set_threads(self._backend.blas, max(1, cores() // max(1, lanes)))
        if lanes <= 1:
            return [job() for job in jobs]
        shift = _Shift(jobs)
        helpers: list[threads.Running] = []
        with suppress(RuntimeError):  # no thread can be started: fewer lanes do the same work
            helpers.extend(threads.start(shift.work, "mlx-qwen-lane") for _ in range(lanes - 1))
        shift.work()
        for helper in helpers:
            helper.join()
        if shift.errors:
            raise shift.errors[0]
        return [shift.results[place] for place in range(len(jobs))]


class _Shift(Generic[T]):
    """The jobs of one call; each lane takes the next one when it is free."""

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
