"""Run functions on daemon threads and return futures: for work that must not hold up an event loop or the exit.

Not ``ThreadPoolExecutor``: when Python exits it waits for the threads of those, before it closes any engine.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from mlx_qwen_embeddings._fork import ForkSafeLock

T = TypeVar("T")


def run_in_thread(call: Callable[[], T], name: str) -> Future[T]:
    """Run a function on a daemon thread of its own.

    Returns:
        A future that cannot be cancelled, so that several callers may wait for it.

    Raises:
        RuntimeError: When no thread can be started.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(target=_settle, args=(future, call), name=name, daemon=True).start()
    return future


class DaemonPool(ForkSafeLock):
    """Runs functions in order on a limited number of daemon threads, which end when there is nothing left to do."""

    def __init__(self, name: str, most: int) -> None:
        """Prepare; ``most`` is the largest number of threads."""
        super().__init__()
        self._name, self._most = name, most
        self._threads = 0
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run a function as soon as a thread is free; the future can be cancelled until then.

        Raises:
            RuntimeError: When no thread is running and none can be started.
        """
        future: Future[T] = Future()
        with self:
            if self._threads < self._most:
                try:
                    threading.Thread(target=self._work, name=self._name, daemon=True).start()
                    self._threads += 1
                except RuntimeError:
                    if not self._threads:
                        raise
            self._calls.append((future, call))
        return future

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            future, call = taken
            if future.set_running_or_notify_cancel():
                _settle(future, call)
            del taken, future, call  # they may hold texts

    def _next(self) -> "tuple[Future[Any], Callable[[], Any]] | None":
        with self:
            if self._calls:
                return self._calls.popleft()
            self._threads -= 1
            return None

    def after_fork_in_child(self) -> None:
        """Forget the threads, which do not exist here, and what they had to do."""
        super().after_fork_in_child()
        self._threads = 0
        self._calls.clear()


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
        future.set_exception(error)
    else:
        future.set_result(result)
