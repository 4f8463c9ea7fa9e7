"""From a batch to settled futures: every vector reaches its caller, and a failure ends at the text that caused it."""

import contextlib
import itertools
import logging
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.engine.queue import Batch, Request
from mlx_qwen_embeddings.errors import NonFiniteEmbeddingError
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.stats import StatsCounter
from mlx_qwen_embeddings.tokenization import Ids

OUT_OF_MEMORY = ("out of memory", "malloc", "unable to allocate", "insufficient memory")
"""What MLX's errors say on Metal, CUDA and the CPU when memory runs out."""

RECOVERY_BATCHES = 100
"""Successful batches after which a limit is doubled again: memory may have been short for a moment only."""

logger = logging.getLogger(__name__)


class BatchEncoder(Protocol):
    """What the worker computes with."""

    def encode(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None) -> NDArray[np.float32]:
        """Return pooled vectors, shape (rows, d), for the token ids of texts that may start with a prompt."""
        ...

    def release(self) -> None:
        """Free what belongs to the calling thread; nothing is encoded after that."""
        ...

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of live arrays, now and at most."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a batch that suits the device; larger ones are not faster, and keep others waiting."""
        ...

    @property
    def padding(self) -> int:
        """Padding tokens of the last batch."""
        ...

    @property
    def nbytes(self) -> int:
        """Size of the weights in memory."""
        ...

    @property
    def survives_fork(self) -> bool:
        """Whether a thread of a forked child may use it."""
        ...


class BatchRunner:
    """Runs batches for a worker."""

    def __init__(self, stats: StatsCounter) -> None:
        """Count in ``stats``."""
        self._stats = stats
        self._limit: int | None = None
        self._successes = 0
        self._warned = False

    def limit(self, tokens: int) -> int:
        """Return the size of a batch that memory is known to allow; ``tokens`` is the size without a limit."""
        if self._limit is not None and self._successes >= RECOVERY_BATCHES:
            self._successes = 0
            self._limit = None if self._limit * 2 >= tokens else self._limit * 2
        return tokens if self._limit is None else min(tokens, self._limit)

    def run(self, encoder: BatchEncoder, batch: Batch) -> None:
        """Compute a batch and hand out its vectors. A failure reaches only the texts that caused it."""
        try:
            with self._stats.timed("compute_seconds"):
                first = batch[0][0]
                vectors = encoder.encode([request.rows[row] for request, row in batch], first.pooling, first.prompt)
        except Exception as error:  # noqa: BLE001 - any failure belongs to the rows of this batch alone
            self._split(encoder, batch, error)
            return
        tokens = sum(len(request.rows[row]) for request, row in batch)
        self._stats.add(batches=1, tokens=tokens, padding_tokens=encoder.padding)
        self._successes += 1
        self._deliver(batch, vectors)

    def _split(self, encoder: BatchEncoder, batch: Batch, error: Exception) -> None:
        """Run the halves of a failed batch, so that only the guilty text fails."""
        # The frames hold arrays and the model: they would take memory from the halves, and live as long as the error.
        traceback.clear_frames(error.__traceback__)
        if len(batch) == 1:
            request, row = batch[0]
            self._fail_row(request, row, error)
            return
        logger.info("a batch of %d texts failed (%s); trying its halves", len(batch), error)
        if is_out_of_memory(error):
            self._lower_limit(sum(request.cost(row) for request, row in batch))
        middle = len(batch) // 2
        self.run(encoder, batch[:middle])
        self.run(encoder, batch[middle:])

    def _deliver(self, batch: Batch, vectors: NDArray[np.float32]) -> None:
        finite = np.all(np.isfinite(vectors), axis=1).tolist()
        by_request = sorted(range(len(batch)), key=lambda position: id(batch[position][0]))
        for request, group in itertools.groupby(by_request, key=lambda position: batch[position][0]):
            positions = list(group)
            good = [position for position in positions if finite[position]]
            for position in set(positions) - set(good):
                self._fail_row(request, batch[position][1], NonFiniteEmbeddingError("the model gave NaN or infinity"))
            self._hand_over(request, [batch[position][1] for position in good], vectors[good])

    def _hand_over(self, request: Request, rows: list[int], vectors: NDArray[np.float32]) -> None:
        try:
            request.on_vectors(rows, vectors)
        except Exception as error:  # noqa: BLE001 - a caller that cannot take its vectors must not harm the others
            for row in rows:
                self._fail_row(request, row, error)
        else:
            self._settle(request, len(rows))

    def _fail_row(self, request: Request, row: int, error: BaseException) -> None:
        request.failures[row] = error
        self._stats.failed(error)
        self._settle(request, 1)

    def _settle(self, request: Request, rows: int) -> None:
        request.done += rows
        if request.done == len(request.rows):
            try_settle(request.future, None)

    def _lower_limit(self, tokens: int) -> None:
        self._successes = 0
        half = max(1, tokens // 2)
        self._limit = half if self._limit is None else min(half, self._limit)
        if not self._warned:
            self._warned = True
            logger.warning(
                "memory ran out in a batch of %d tokens: batches are halved, to at most %d, and doubled again after %d "
                "successful ones. Free some memory, or set batch_tokens. This warning is given once.",
                tokens,
                self._limit,
                RECOVERY_BATCHES,
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def try_settle(future: Future[None], error: BaseException | None) -> None:
    """Settle a future with an error, or with None for success, unless it was cancelled or settled before."""
    with contextlib.suppress(InvalidStateError):
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
