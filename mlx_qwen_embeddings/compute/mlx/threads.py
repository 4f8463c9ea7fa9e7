"""Threads that compute with MLX, kept for the next use: MLX never frees the stream of a thread that ended.

Each thread that ever computed leaves a system thread and 200 kB behind in MLX. So a thread whose work is done waits here
for other work, and ends with the process only.
"""

import atexit
import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from mlx_qwen_embeddings.compute.mlx.backend import release_thread

Task = Callable[[], None]

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_idle: "list[_Thread]" = []
_all: "list[_Thread]" = []


class Running:
    """A task in a thread of its own."""

    def __init__(self, thread: "_Thread") -> None:
        """Name the thread that does it."""
        self._thread = thread
        self.ended = threading.Event()

    def is_alive(self) -> bool:
        """Whether the task goes on."""
        return not self.ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, at most ``timeout`` seconds; not at all in the task itself."""
        if threading.current_thread() is not self._thread:
            self.ended.wait(timeout)


class _Thread(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.tasks: SimpleQueue[tuple[Task, Running] | None] = SimpleQueue()

    def run(self) -> None:
        while (given := self.tasks.get()) is not None:
            task, running = given
            try:
                task()
            except BaseException:
                # A thread that ended here would be taken for an idle one, and whatever it was given never begin.
                logger.exception("a thread's task failed")
            del given, task  # they may hold a model
            with _lock:
                _idle.append(self)
            running.ended.set()  # last: whoever waits for it may end the process
        release_thread()


def start(task: Task, name: str) -> Running:
    """Run a task, which must not raise, in a thread that nothing else runs in meanwhile.

    Raises:
        RuntimeError: When no thread can be had.
    """
    with _lock:
        thread = _idle.pop() if _idle else None
    if thread is None:
        thread = _Thread()
        thread.start()
        _all.append(thread)
    thread.name = name
    running = Running(thread)
    thread.tasks.put((task, running))
    return running


@atexit.register
def _end_all() -> None:
    # MLX aborts the interpreter's exit if a thread that computed did not clear its streams.
    for thread in _all:
        thread.tasks.put(None)  # taken once the task in hand is done
    for thread in _all:
        thread.join()


def _forget_all() -> None:
    global _lock  # noqa: PLW0603 - a forked child needs a fresh one
    _lock = threading.Lock()
    _idle.clear()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
