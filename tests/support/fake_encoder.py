"""An encoder without a model: each vector says which row it was made from, and a test decides when a batch ends."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.engine.queue import Request
from mlx_qwen_embeddings.engine.worker import State, Worker
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.stats import StatsCounter
from mlx_qwen_embeddings.tokenization import Ids

RAISES, NAN, DIES = 900_001, 900_002, 900_003
"""First ids of rows that make their batch raise, return NaN, or end the worker's thread."""

PATIENCE = 20.0
"""Seconds after which a test fails instead of waiting for something that never happens."""


class FakeEncoder:
    """Returns the vector (first id, number of ids) for each row."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        self.poolings: list[Pooling] = []
        self.threads: set[threading.Thread] = set()
        self.released_by: threading.Thread | None = None
        self.survives_fork = True
        self.memory = (10, 20)
        self.nbytes = 100
        self.padding = 0
        self.batch_tokens = 100
        self._begun = threading.Semaphore(0)
        self._let_go = threading.Semaphore(0)
        self._held = False

    def encode(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None = None) -> NDArray[np.float32]:
        batch = [(int(row[0]), len(row)) for row in rows]
        self.batches.append(batch)
        lengths = [length for _, length in batch]
        self.padding = len(batch) * max(lengths) - sum(lengths)
        self.poolings.append(pooling)
        self.threads.add(threading.current_thread())
        if self._held:
            self._begun.release()
            assert self._let_go.acquire(timeout=PATIENCE), "no test released this batch"
        return self.compute(rows, pooling, prompt)

    def compute(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None) -> NDArray[np.float32]:
        batch = [(int(row[0]), len(row)) for row in rows]
        firsts = {first for first, _ in batch}
        if DIES in firsts:
            raise SystemExit
        if RAISES in firsts:
            message = f"a batch of {len(rows)} with a bad row"
            raise RuntimeError(message)
        return np.array([(np.nan if first == NAN else first, length) for first, length in batch], dtype=np.float32)

    def release(self) -> None:
        self.released_by = threading.current_thread()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make every batch that begins in this block wait for ``step``; the end of the block releases the last one."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._let_go.release()

    def begun(self) -> None:
        """Wait until a batch is being computed."""
        assert self._begun.acquire(timeout=PATIENCE), "no batch began"

    def step(self) -> None:
        """Let the batch being computed end, and wait until the next one has begun."""
        self._let_go.release()
        self.begun()


class WatchedEncoder(FakeEncoder):
    """A real engine's encoder that a test can watch and hold like the fake one."""

    def __init__(self, engine: EmbeddingEngine) -> None:
        """Replace the encoder of an engine that was not used yet."""
        super().__init__()
        self._worker = engine._model.worker
        assert self._worker._state is State.COLD, "the engine was used already"
        self._open_real, self._worker._open_encoder = self._worker._open_encoder, self._open

    def _open(self) -> "WatchedEncoder":
        self._real = self._open_real()
        self.survives_fork = self._real.survives_fork
        self.batch_tokens = self._real.batch_tokens
        return self

    def compute(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None) -> NDArray[np.float32]:
        vectors = self._real.encode(rows, pooling, prompt)
        self.padding = self._real.padding
        return vectors

    def release(self) -> None:
        super().release()
        self._real.release()


def wait_for_requests(engine: EmbeddingEngine, number: int) -> None:
    """Wait until this many requests are queued or being computed."""
    worker = engine._model.worker
    with worker._changed:
        assert worker._changed.wait_for(lambda: len(worker._requests) == number, PATIENCE)


def wait_for_waiting(worker: Worker, number: int) -> None:
    """Wait until this many requests wait for room in the queue."""
    with worker._changed:
        assert worker._changed.wait_for(lambda: len(worker._waiting) == number, PATIENCE)


class Caller:
    """A request and its results."""

    def __init__(self, rows: Sequence[tuple[int, int]], pooling: Pooling = "last") -> None:
        """Prepare rows, each given by its first id and its length."""
        self.rows = list(rows)
        self.vectors: dict[int, tuple[float, float]] = {}
        ids = [np.full(length, first, dtype=np.int32) for first, length in rows]
        self.request = Request(ids, pooling, self._receive)

    def _receive(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        for row, vector in zip(rows, vectors, strict=True):
            assert row not in self.vectors, "a row came twice"
            self.vectors[row] = (float(vector[0]), float(vector[1]))

    def submit(self, worker: Worker, *, wait: bool = True) -> "Caller":
        worker.submit(self.request, wait=wait)
        return self

    @property
    def admitted(self) -> bool:
        """Whether the request is in the queue, or was."""
        return self.request.admitted.done()

    def result(self) -> list[tuple[float, float] | None]:
        """Wait, and return the vectors in the order of the rows; None for a row that failed."""
        self.request.future.result(PATIENCE)
        return [self.vectors.get(row) for row in range(len(self.rows))]

    def error(self) -> BaseException | None:
        return self.request.future.exception(PATIENCE)

    @property
    def right(self) -> bool:
        """Whether every row got its own vector."""
        return self.result() == self.rows


def make_worker(
    encoder: FakeEncoder, *, batch_tokens: int = 100, queue_tokens: int = 10**9, stats: StatsCounter | None = None
) -> Worker:
    return Worker(lambda: encoder, batch_tokens=batch_tokens, queue_tokens=queue_tokens, stats=stats or StatsCounter())
