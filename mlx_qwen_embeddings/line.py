"""Threads for calls that wait, so that an event loop need not."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future


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
