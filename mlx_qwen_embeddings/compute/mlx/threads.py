"""Reuse threads that computed with MLX, because MLX never frees the stream of a thread that ended.

Each such thread leaves a system thread and 200 kB behind in MLX. So a thread that has finished its task waits here for the
next one, until the process ends.
"""

import atexit
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from mlx_qwen_embeddings._fork import ForkSafeLock
from mlx_qwen_embeddings.compute.mlx.backend import release_thread

Task = Callable[[], None]

logger = logging.getLogger(__name__)

_idle: "list[_Thread]" = []
_all: "list[_Thread]" = []


class _Lock(ForkSafeLock):
    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        _idle.clear()
        _all.clear()


_lock = _Lock()


class Running:
    """A task that a thread is running."""

    def __init__(self, thread: "_Thread") -> None:
        self._thread = thread
        self.ended = threading.Event()

    def is_alive(self) -> bool:
        """Return whether the task is still running."""
        return not self.ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait at most ``timeout`` seconds for the task to end. Return at once if the task itself calls this."""
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
                # If the thread ended here, it would still count as idle, and its next task would never start.
                logger.exception("a thread's task failed")
            del given, task  # they may hold a model
            with _lock:
                _idle.append(self)
            running.ended.set()  # last, because whoever waits for it may end the process
        release_thread()


def start(task: Task, name: str) -> Running:
    """Run a task, which must not raise, in a thread of its own.

    Raises:
        RuntimeError: If no thread can be started.
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
    # MLX aborts the process at exit if a thread that computed did not clear its streams.
    for thread in _all:
        thread.tasks.put(None)  # read once the current task is done
    for thread in _all:
        thread.join()
