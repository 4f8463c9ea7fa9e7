"""From a batch to settled futures: each text's vector reaches its caller, and a failure its own text alone."""

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
"""Batches that have to go well until twice as much is tried after memory ran out: it may have been short for a moment."""

logger = logging.getLogger(__name__)


class BatchEncoder(Protocol):
    """What the worker drives."""

    def encode(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None) -> NDArray[np.float32]:
        """Token ids of each text, which may start with a prompt, to pooled vectors (texts, d)."""
        ...

    def release(self) -> None:
        """Give back what belongs to the calling thread; nothing is encoded after that."""
        ...

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of live arrays, now and at most."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a batch that suits the device: more would only keep others waiting."""
        ...

    @property
    def padding(self) -> int:
        """Tokens that the last batch was padded with."""
        ...

    @property
    def nbytes(self) -> int:
        """Size of the weights in memory."""
        ...

    @property
    def survives_fork(self) -> bool:
        """Whether a thread of a forked child may go on with it."""
        ...


class Delivery:
    """Runs batches for a worker."""

    def __init__(self, stats: StatsCounter) -> None:
        """Count in ``stats``."""
        self._stats = stats
        self._limit: int | None = None
        self._went_well = 0
        self._said = False

    def at_most(self, tokens: int) -> int:
        """Give the size of a batch that memory allows, as far as is known; ``tokens`` is the size without a limit."""
        if self._limit is not None and self._went_well >= RECOVERY_BATCHES:
            self._went_well = 0
            self._limit = None if self._limit * 2 >= tokens else self._limit * 2
        return tokens if self._limit is None else min(tokens, self._limit)

    def serve(self, encoder: BatchEncoder, batch: Batch) -> None:
        """Run a batch and hand the vectors over; a failure ends at the texts that caused it."""
        try:
            with self._stats.timed("compute_seconds"):
                first = batch[0][0]
                vectors = encoder.encode([request.rows[row] for request, row in batch], first.pooling, first.prompt)
        except Exception as error:  # noqa: BLE001 - any failure belongs to the rows of this batch alone
            self._split(encoder, batch, error)
            return
        tokens = sum(len(request.rows[row]) for request, row in batch)
        self._stats.add(batches=1, tokens=tokens, padding_tokens=encoder.padding)
        self._went_well += 1
        self._deliver(batch, vectors)

    def _split(self, encoder: BatchEncoder, batch: Batch, error: Exception) -> None:
        """Run the halves of a failed batch, so that only the guilty text fails."""
        # The frames hold arrays, and the model: they would take room from the halves, and live as long as the error does.
        traceback.clear_frames(error.__traceback__)
        if len(batch) == 1:
            request, row = batch[0]
            self._fail_row(request, row, error)
            return
        logger.info("a batch of %d texts failed (%s); its halves are run", len(batch), error)
        if is_out_of_memory(error):
            self._lower_limit(sum(request.cost(row) for request, row in batch))
        middle = len(batch) // 2
        self.serve(encoder, batch[:middle])
        self.serve(encoder, batch[middle:])

    def _deliver(self, batch: Batch, vectors: NDArray[np.float32]) -> None:
        finite = np.all(np.isfinite(vectors), axis=1).tolist()
        for request, group in itertools.groupby(
            sorted(range(len(batch)), key=lambda place: id(batch[place][0])), key=lambda place: batch[place][0]
        ):
            places = list(group)
            good = [place for place in places if finite[place]]
            for place in set(places) - set(good):
                self._fail_row(request, batch[place][1], NonFiniteEmbeddingError("the model gave NaN or infinity"))
            self._hand_over(request, [batch[place][1] for place in good], vectors[good])

    def _hand_over(self, request: Request, rows: list[int], vectors: NDArray[np.float32]) -> None:
        try:
            request.on_vectors(rows, vectors)
        except Exception as error:  # noqa: BLE001 - what one caller does with its vectors is no matter of the others
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
        self._went_well = 0
        half = max(1, tokens // 2)
        self._limit = half if self._limit is None else min(half, self._limit)
        if not self._said:
            self._said = True
            logger.warning(
                "memory ran out in a batch of %d tokens: batches are halved, to at most %d, and doubled again once %d went "
                "well. Free some memory, or set batch_tokens. Said once.",
                tokens,
                self._limit,
                RECOVERY_BATCHES,
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in OUT_OF_MEMORY)


def try_settle(future: "Future[None]", error: BaseException | None) -> None:
    """Settle a future with an error, or None for success, unless it was cancelled."""
    with contextlib.suppress(InvalidStateError):  # cancelled in the meantime: nobody waits for it
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
