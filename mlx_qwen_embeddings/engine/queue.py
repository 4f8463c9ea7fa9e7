"""What waits for the worker: requests, how many tokens of them are admitted, and the choice of the next batch."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.compute.batching import cut, length_order
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.tokenization import Ids

OnVectors = Callable[[list[int], NDArray[np.float32]], None]

PREFIX_SHARE = 8
"""A token of a shared prompt costs one eighth of a computed token: its keys and values are only copied for every row."""


@dataclass(eq=False)
class Request:
    """Rows to compute for one caller.

    Attributes:
        rows: Token ids of each text.
        pooling: How the token states of a row become its vector.
        on_vectors: Called on the worker's thread with positions in ``rows`` and their vectors, once per batch.
        prompt: Ids that the rows may start with; None when there is no prompt.
        call: The call that the request belongs to. Requests of one call take turns with others as one.
        admitted: Settled when the queue has room for the request, or with the error that keeps it out.
        future: Settled when every row is done. Cancelling it takes the remaining rows out of the queue.
        failures: Rows that could not be computed, with the reason.
        waiting: Rows not yet taken into a batch, longest first.
        tokens: Number of tokens in all rows.
        kind: What rows must have in common to share a batch: the pooling and the prompt.
        done: Number of rows that have their vector or their failure.
    """

    rows: Sequence[Ids]
    pooling: Pooling
    on_vectors: OnVectors
    prompt: Ids | None = None
    call: object = field(default_factory=object)
    admitted: Future[None] = field(default_factory=Future)
    future: Future[None] = field(default_factory=Future)
    failures: dict[int, BaseException] = field(default_factory=dict)
    waiting: list[int] = field(init=False)
    tokens: int = field(init=False)
    kind: tuple[Pooling, bytes | None] = field(init=False)
    done: int = 0
    _shared: int = field(init=False)

    def __post_init__(self) -> None:
        """Sort the rows once, longest first, so that the next ones are taken off the end."""
        self._shared = len(self.prompt) if self.prompt is not None and self.pooling == "last" else 0
        lengths = [len(row) for row in self.rows]
        self.waiting = length_order(lengths)[::-1].tolist()
        self.tokens = sum(lengths)
        self.kind = (self.pooling, None if self.prompt is None else self.prompt.tobytes())

    def cost(self, row: int) -> int:
        """Return the tokens that a row takes up in a batch, where a prompt that all rows start with is computed once."""
        return max(1, len(self.rows[row]) - self._shared) + self._shared // PREFIX_SHARE


Batch = list[tuple[Request, int]]
"""Rows of similar length, from one or several requests."""


def next_batch(requests: Sequence[Request], budget: int) -> Batch:
    """Choose the rows to run next, without taking them out of their requests.

    Every request with the pooling and prompt of the first one offers its shortest rows, up to an equal share of the
    budget; what small requests leave over goes to the others. The offers are cut into batches of similar length, and the
    batch with the shortest row of the first request is chosen. So a request never waits for more than one batch of a
    large one, and none starves as long as the caller moves requests that were served to the end.

    Args:
        requests: Requests with rows left, the least recently served one first.
        budget: Most tokens of the batch. Padding counts; so does the reduced cost of a shared prompt.
    """
    first = requests[0]
    offered: Batch = []
    left = budget
    others = sorted((request for request in requests[1:] if request.kind == first.kind), key=_tokens_offered)
    for position, request in enumerate((first, *others)):
        share = left // (1 + len(others) - position)
        left -= _offer(request, share, offered)
    offered.sort(key=lambda item: item[0].cost(item[1]))
    for span in cut([request.cost(row) for request, row in offered], budget):
        batch = [offered[position] for position in span]
        if any(request is first for request, _ in batch):
            return batch
    raise ValueError("the first request has no row left")


def _tokens_offered(request: Request) -> int:
    # An estimate from the shortest row: exact for a request of one text, and cheap for one of many.
    return request.cost(request.waiting[-1]) * len(request.waiting)


def _offer(request: Request, share: int, offered: Batch) -> int:
    used = 0
    for row in reversed(request.waiting):
        cost = request.cost(row)
        if used and used + cost > share:
            break
        offered.append((request, row))
        used += cost
    return used


def take(batch: Batch) -> None:
    """Take the rows of a batch out of their requests."""
    taken: dict[Request, set[int]] = {}
    for request, row in batch:
        taken.setdefault(request, set()).add(row)
    for request, rows in taken.items():
        request.waiting = [row for row in request.waiting if row not in rows]


SMALL_SHARE = 8
"""One eighth of the budget is added for small requests alone, so that no job, however large, holds them back."""


class QueueBudget:
    """The tokens that are admitted to the queue; those of a request count until it is done."""

    def __init__(self, limit: int) -> None:
        """Admit requests in order up to ``limit`` tokens, and an eighth of that for small ones that overtake."""
        self._limit = limit
        self._in_order = 0
        self._overtaking: set[Request] = set()
        self._overtaken = 0

    @property
    def tokens(self) -> int:
        """Tokens of all admitted requests."""
        return self._in_order + self._overtaken

    def admit(self, request: Request, *, first: bool, small: bool) -> bool:
        """Count a request if there is room for it, and return whether there is.

        An endless flow of small requests never keeps a large one out, since they are not counted against its room. A
        request larger than the whole budget is admitted once it has the budget to itself.

        Args:
            request: The request.
            first: Whether no other has waited longer.
            small: Whether it may overtake those that have.
        """
        if first and (not self._in_order or self._in_order + request.tokens <= self._limit):
            self._in_order += request.tokens
            return True
        if small and self._overtaken + request.tokens <= self._limit // SMALL_SHARE:
            self._overtaking.add(request)
            self._overtaken += request.tokens
            return True
        return False

    def release(self, request: Request) -> None:
        """Stop counting an admitted request."""
        if request in self._overtaking:
            self._overtaking.remove(request)
            self._overtaken -= request.tokens
        else:
            self._in_order -= request.tokens
