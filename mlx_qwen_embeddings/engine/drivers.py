"""Take the steps of a call: waiting in the calling thread, or without holding up an event loop."""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.engine.call import Step, Window
from mlx_qwen_embeddings.engine.queue import Request
from mlx_qwen_embeddings.engine.worker import Worker
from mlx_qwen_embeddings.errors import EmbeddingTimeoutError, EngineBusyError


class Line:
    """Runs calls on daemon threads, at most so many at a time, each of which ends when there is nothing left to do.

    Not a ``ThreadPoolExecutor``: Python waits for the threads of those when it exits, before any engine is closed, so the
    exit would take until the last call of the line was let in.
    """

    def __init__(self, most: int) -> None:
        """Prepare; ``most`` is the number of threads."""
        self._most = most
        self._threads = 0
        self._calls: deque[tuple[Future[None], Callable[[], None]]] = deque()
        self._lock = threading.Lock()

    def submit(self, call: Callable[[], None]) -> "Future[None]":
        """Run a call as soon as a thread is free.

        Raises:
            RuntimeError: When there is none, and none can be had.
        """
        future: Future[None] = Future()
        with self._lock:
            if self._threads < self._most:
                try:
                    threading.Thread(target=self._work, name="mlx-qwen-line", daemon=True).start()
                    self._threads += 1
                except RuntimeError:
                    if not self._threads:
                        raise
            self._calls.append((future, call))
        return future

    def _work(self) -> None:
        while (given := self._next()) is not None:
            future, call = given
            if future.set_running_or_notify_cancel():
                try:
                    call()
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                    future.set_exception(error)
                else:
                    future.set_result(None)
            del given, future, call  # the next wait may be long, and they hold texts

    def _next(self) -> "tuple[Future[None], Callable[[], None]] | None":
        with self._lock:
            if self._calls:
                return self._calls.popleft()
            self._threads -= 1
            return None


T = TypeVar("T")

POLL_SECONDS = 0.1
"""How often a progress bar is redrawn while a window is computed."""

WAKE_SECONDS = 0.5
"""How often an event loop wakes while a window is computed: Jupyter's Ctrl-C only asks the loop to cancel, and wakes it not
(ipykernel's signal handler takes tornado's ``add_callback``, which does so for other threads alone)."""

LINE_THREADS = 32
"""Asynchronous calls that wait for room in a queue at a time, of all engines; others wait for one of these. They are not
the event loop's own threads, which tokenise and look up."""

INLINE_CHARACTERS = 20_000
"""Texts up to this size are tokenised on the event loop: it takes a few milliseconds, less than a change of thread."""


class Progress:
    """A progress bar over texts, or nothing."""

    def __init__(self, total: int | None, *, show: bool) -> None:
        """Draw the bar, as a widget in a notebook; a total of None is not known yet."""
        self._bar: Any = None
        if show:
            from tqdm.auto import tqdm  # noqa: PLC0415 - only those who ask for a bar pay for its import

            self._bar = tqdm(total=total, desc="Embedding", unit="text")
        self._finished = 0

    @property
    def shown(self) -> bool:
        """Whether there is a bar to redraw."""
        return self._bar is not None

    def update(self, window: Window, *, finished: bool) -> None:
        """Show how far the first unfinished window is."""
        if self._bar is not None:
            self._bar.update(self._finished + window.done - self._bar.n)
        if finished:
            self._finished += window.done

    def counted(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Show that the texts of these are done, and hand them on."""
        if self._bar is not None:
            self._bar.update(len(vectors))
        return vectors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            if error is None and self._bar.total is not None:
                self._bar.update(self._bar.total - self._bar.n)  # repeated texts are not computed, but are done
            self._bar.close()


class Deadline:
    """The moment when a call gives up."""

    def __init__(self, timeout: float | None, *, wait: bool = True) -> None:
        """Start the clock; None never ends. ``wait`` says whether the call waits for room in the queue."""
        self._timeout = timeout
        self.wait = wait
        # More than a lock can wait for is for ever.
        self._end = None if timeout is None or timeout > threading.TIMEOUT_MAX else time.monotonic() + timeout
        self.futures: list[Future[None]] = []

    def give_up(self) -> None:
        """Let a call that runs in another thread end now."""
        self._end = 0.0  # before the futures: one that is added later is never waited for
        for future in self.futures:
            if future.cancel():
                future.set_running_or_notify_cancel()  # what wakes the thread that waits for it

    def left(self) -> float | None:
        """Seconds left, None for ever.

        Raises:
            EmbeddingTimeoutError: When none are.
        """
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            message = f"the call was not served within timeout={self._timeout:g} s: raise it, or send fewer texts"
            raise EmbeddingTimeoutError(message)
        return left

    def slice(self, *, longest: float | None) -> float | None:
        """Seconds to wait at a stretch."""
        left = self.left()
        return left if longest is None else longest if left is None else min(left, longest)


def in_time(future: "Future[T]", deadline: Deadline) -> T:
    """Give a future's result.

    Raises:
        EmbeddingTimeoutError: When the deadline passes before.
    """
    while not wait([future], deadline.left()).done:
        pass
    return future.result()


async def ain_time(future: "Future[T]", deadline: Deadline) -> T:
    """Do as ``in_time`` without holding up the event loop; a future that runs goes on when the caller is cancelled."""
    waiting = asyncio.wrap_future(future)
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=deadline.slice(longest=WAKE_SECONDS))
        return waiting.result()
    finally:
        waiting.cancel()


def drive(steps: Iterator[Step], worker: Worker, deadline: Deadline, progress: Progress) -> None:
    """Take the steps in the calling thread.

    Raises:
        EmbeddingTimeoutError: When the deadline passes; what was queued is taken back.
    """
    try:
        for action, window in steps:
            if window.request is not None and action == "submit":
                deadline.futures.append(window.request.future)
                _submit(worker, window.request, deadline)
            elif window.request is not None:
                _wait(window.request.future, window, deadline, progress)
            if action == "wait":
                progress.update(window, finished=True)
    finally:
        _cancel(deadline.futures)


class Ahead:
    """A call that is made in advance, on a thread of its own."""

    def __init__(self, call: Callable[[Deadline], NDArray[np.float32]], timeout: float | None) -> None:
        """Begin; ``call`` is what ``timeout`` holds for."""
        self._call, self._timeout, self._process = call, timeout, os.getpid()
        self._deadline = Deadline(timeout)
        self._result: Future[NDArray[np.float32]] = Future()
        threading.Thread(target=self._run, name="mlx-qwen-ahead", daemon=True).start()

    def _run(self) -> None:
        try:
            self._result.set_result(self._call(self._deadline))
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the result
            self._result.set_exception(error)

    def result(self) -> NDArray[np.float32]:
        """Wait for what the call gives, or raise what it raised. In a forked child the call is made anew."""
        return self._result.result() if self._here else self._call(Deadline(self._timeout))

    def give_up(self) -> None:
        """End the call: nobody asks for its result."""
        if self._here:
            self._deadline.give_up()

    @property
    def _here(self) -> bool:
        return self._process == os.getpid()


def _submit(worker: Worker, request: Request, deadline: Deadline) -> None:
    try:
        worker.submit(request, wait=deadline.wait, seconds=deadline.left())
        deadline.wait = True  # what was let in is served whole
    except EngineBusyError:
        deadline.left()  # it is the call's own time that ran out
        raise


def _wait(future: "Future[None]", window: Window, deadline: Deadline, progress: Progress) -> None:
    longest = POLL_SECONDS if progress.shown else None
    while not wait([future], deadline.slice(longest=longest)).done:
        progress.update(window, finished=False)
    future.result()


async def adrive(steps: Iterator[Step], worker: Worker, deadline: Deadline, progress: Progress, *, inline: bool) -> None:
    """Take the steps on an event loop; long ones run in its thread pool.

    Args:
        steps: The call.
        worker: Where requests go.
        deadline: When to give up.
        progress: What to keep up to date.
        inline: Whether the texts are few enough to tokenise them on the loop, and looked up without waiting.

    Raises:
        EmbeddingTimeoutError: When the deadline passes; what was queued is taken back.
    """
    futures: list[Future[None]] = []
    try:
        while (step := next(steps, None) if inline else await asyncio.to_thread(next, steps, None)) is not None:
            action, window = step
            if window.request is not None and action == "submit":
                futures.append(window.request.future)
                await _asubmit(worker, window, deadline)
            elif window.request is not None:
                await _await(window.request.future, window, deadline, progress)
            if action == "wait":
                progress.update(window, finished=True)
    finally:
        _cancel(futures)


async def _asubmit(worker: Worker, window: Window, deadline: Deadline) -> None:
    assert window.request is not None  # noqa: S101 - the caller looked
    try:
        worker.submit(window.request, wait=False)
        deadline.wait = True  # what was let in is served whole
    except EngineBusyError:
        if not deadline.wait:
            raise
        await ain_time(_line.submit(partial(_submit, worker, window.request, deadline)), deadline)


def _forget_line() -> None:
    global _line  # noqa: PLW0603 - its threads are not in a forked child
    _line = Line(LINE_THREADS)


_line = Line(LINE_THREADS)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_line)


async def _await(future: "Future[None]", window: Window, deadline: Deadline, progress: Progress) -> None:
    longest = POLL_SECONDS if progress.shown else WAKE_SECONDS
    waiting = asyncio.wrap_future(future)
    while not waiting.done():
        await asyncio.wait([waiting], timeout=deadline.slice(longest=longest))
        if not waiting.done():
            progress.update(window, finished=False)
    waiting.result()


def _cancel(futures: "list[Future[None]]") -> None:
    for future in futures:
        future.cancel()
