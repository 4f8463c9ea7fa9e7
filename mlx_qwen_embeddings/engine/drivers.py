"""Drive a call step by step: waiting in the calling thread, or without blocking an event loop."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, TypeVar

from mlx_qwen_embeddings._threads import DaemonPool
from mlx_qwen_embeddings.engine.call import Call, Embedded
from mlx_qwen_embeddings.errors import EmbeddingTimeoutError

T = TypeVar("T")
Redraw = Callable[[], None]

POLL_SECONDS = 0.1
"""How often a progress bar is redrawn while a window is computed."""

WAKE_SECONDS = 0.5
"""How often an event loop wakes while a window is computed. Jupyter's Ctrl-C asks the loop to cancel but does not wake it:
ipykernel's signal handler calls tornado's ``add_callback``, which wakes the loop only from other threads."""

INLINE_CHARACTERS = 20_000
"""Texts up to this size are tokenised on the event loop: it takes a few milliseconds, less than a change of thread."""

_tokenizing = DaemonPool("mlx-qwen-tokenize", 16)
"""Tokenises and looks up for event loops. A loop's own threads may all be busy, which would delay calls without end."""


@contextmanager
def progress_bar(call: Call) -> Iterator[Redraw | None]:
    """Draw a bar over the texts of a call, as a widget in a notebook, and yield what redraws it; None without a bar."""
    if not call.plan.options.show_progress:
        yield None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415 - only those who ask for a bar pay for its import

    with tqdm(total=call.total, desc="Embedding", unit="text") as bar:

        def redraw() -> None:
            bar.update(call.done - bar.n)

        yield redraw
        redraw()


class Deadline:
    """The moment when a call gives up."""

    def __init__(self, timeout: float | None) -> None:
        """Start the clock; None never ends."""
        self._timeout = timeout
        self.restart()

    def restart(self) -> None:
        """Start the clock again."""
        limited = self._timeout is not None and self._timeout <= threading.TIMEOUT_MAX  # what a lock can wait for
        self._end = time.monotonic() + self._timeout if self._timeout is not None and limited else None

    def left(self, most: float | None = None) -> float | None:
        """Return the seconds left, or ``most`` if that is less; None means no limit.

        Raises:
            EmbeddingTimeoutError: When the time is up.
        """
        if self._end is None:
            return most
        left = self._end - time.monotonic()
        if left <= 0:
            raise EmbeddingTimeoutError(
                f"the call was not served within timeout={self._timeout:g} s: raise it, or send fewer texts"
            )
        return left if most is None else min(left, most)


def in_time(future: Future[T], deadline: Deadline, redraw: Redraw | None = None) -> T:
    """Wait for a future and return its result.

    Raises:
        EmbeddingTimeoutError: When the deadline passes first.
    """
    while not wait([future], deadline.left(POLL_SECONDS if redraw else None)).done:
        if redraw:
            redraw()
    return future.result()


async def ain_time(future: Future[T], deadline: Deadline, redraw: Redraw | None = None) -> T:
    """Wait for a future without blocking the event loop, and return its result; on giving up, cancel it if possible.

    Raises:
        EmbeddingTimeoutError: When the deadline passes first.
    """
    waiting = asyncio.wrap_future(future)
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=deadline.left(POLL_SECONDS if redraw else WAKE_SECONDS))
            if redraw:
                redraw()
        return waiting.result()
    finally:
        waiting.cancel()


def drive(call: Call, deadline: Deadline) -> Generator[Embedded, None, None]:
    """Take the steps of a call in the calling thread, and yield its blocks.

    The clock starts again with every block. What is left is taken out of the queue when the iterator is closed.

    Raises:
        EmbeddingTimeoutError: When the deadline passes.
    """
    with closing(call.steps()) as steps, progress_bar(call) as redraw:
        while True:
            deadline.left()
            step = next(steps, None)
            if step is None:
                return
            if isinstance(step, Future):
                in_time(step, deadline, redraw)
            else:
                if redraw:
                    redraw()
                yield step
                deadline.restart()


async def adrive(call: Call, deadline: Deadline, *, inline: bool) -> Embedded:
    """Take the steps of a call of one block on an event loop, and return the block.

    Args:
        call: The call.
        deadline: When to give up.
        inline: Whether tokenising and looking up take too little time to leave the event loop for.

    Raises:
        EmbeddingTimeoutError: When the deadline passes; what was queued is taken back.
    """
    steps = call.steps()
    taking: Future[Any] | None = None
    try:
        with progress_bar(call) as redraw:
            while True:
                deadline.left()
                if inline:
                    step = next(steps)
                else:
                    taking = _tokenizing.submit(partial(next, steps))
                    step = await ain_time(taking, deadline)
                if not isinstance(step, Future):
                    return step
                await ain_time(step, deadline, redraw)
    finally:
        if taking is None:
            steps.close()
        else:
            taking.cancel()
            taking.add_done_callback(lambda _: steps.close())  # not before: a thread may be in the middle of a step
