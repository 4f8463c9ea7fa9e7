"""What waits for the worker: the rows of one caller, and the choice of the next batch among all callers."""

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
"""A token of a kept prompt costs this part of one that is computed: its keys and values are copied for every row."""


@dataclass(eq=False)
class Request:
    """Rows to compute for one caller.

    Attributes:
        rows: Token ids of each text.
        pooling: How they are pooled.
        prompt: Ids that the rows may start with; None when there is no prompt.
        call: Whose they are: the requests of one call take turns with others as one.
        on_vectors: Called on the worker thread with positions in ``rows`` and their vectors, batch by batch.
        future: Settled when every row is done; cancelling it takes the rest of the rows out of the queue.
        failures: Rows that could not be computed, with the reason.
    """

    rows: Sequence[Ids]
    pooling: Pooling
    on_vectors: OnVectors
    prompt: Ids | None = None
    call: object = field(default_factory=object)
    future: "Future[None]" = field(default_factory=Future)
    failures: dict[int, BaseException] = field(default_factory=dict)
    waiting: list[int] = field(init=False)
    tokens: int = field(init=False)
    kind: tuple[Pooling, bytes | None] = field(init=False)
    done: int = 0
    _shared: int = field(init=False)

    def __post_init__(self) -> None:
        """Sort once, longest first, so that the next rows are popped off the end."""
        self._shared = len(self.prompt) if self.prompt is not None and self.pooling == "last" else 0
        lengths = [len(row) for row in self.rows]
        self.waiting = length_order(lengths)[::-1].tolist()
        self.tokens = sum(lengths)
        self.kind = (self.pooling, None if self.prompt is None else self.prompt.tobytes())

    def cost(self, row: int) -> int:
        """Give what a row takes of a batch, in tokens: a prompt that every row starts with is computed once."""
        return max(1, len(self.rows[row]) - self._shared) + self._shared // PREFIX_SHARE


Batch = list[tuple[Request, int]]
"""Rows of several requests, of like length."""


def next_batch(requests: Sequence[Request], budget: int) -> Batch:
    """Choose the rows to run next, without taking them out.

    Every request of the first one's pooling and prompt offers its shortest rows up to an equal share of the budget; what
    small ones leave over goes to the others. The offers are cut into batches of like length, and the one that holds the
    first request's shortest row is chosen. So a request never waits for more than one batch of a long one, and none
    starves as long as the caller moves those that were served to the end.

    Args:
        requests: Those with rows left, the one that was served least recently first.
        budget: Most tokens of the batch, padding counted, and of a prompt that is kept its share only.
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
    message = "the first request has no row left"
    raise ValueError(message)


def _tokens_offered(request: Request) -> int:
    # The shortest row tells enough of a request that came with one text, and costs nothing for one with many.
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
"""Small requests have this part of the queue, beside it, to themselves: so no job, however large, holds them back."""


class Room:
    """The tokens that wait or run; a request counts until it is done."""

    def __init__(self, most: int) -> None:
        """Bound those in line by ``most``, and the small ones that passed it by an eighth of that."""
        self._most = most
        self._in_line = 0
        self._passed: set[Request] = set()
        self._apart = 0

    @property
    def tokens(self) -> int:
        """Tokens of all that was let in."""
        return self._in_line + self._apart

    def has(self, request: Request, *, first: bool, small: bool) -> bool:
        """Say whether a request may come in: the first of the line, or a small one that passes it.

        Small ones that come without end never keep a large one out, since they are not counted against its room.
        """
        return (first and self._fits(request)) or (small and self._apart + request.tokens <= self._most // SMALL_SHARE)

    def add(self, request: Request, *, first: bool) -> None:
        """Count a request that may come in."""
        if first and self._fits(request):
            self._in_line += request.tokens
        else:
            self._passed.add(request)
            self._apart += request.tokens

    def remove(self, request: Request) -> None:
        """Count it no longer."""
        if request in self._passed:
            self._passed.remove(request)
            self._apart -= request.tokens
        else:
            self._in_line -= request.tokens

    def _fits(self, request: Request) -> bool:
        # One that is larger than all the room has it to itself.
        return not self._in_line or self._in_line + request.tokens <= self._most
