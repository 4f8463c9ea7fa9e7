"""Fork safety: when a process forks, no thread is in the middle of anything, and the child starts with fresh locks.

Otherwise a lock that another thread held, or a computation it was running, would stay that way in the child for ever.
"""

import atexit
import ctypes
import os
import threading
from contextlib import suppress
from enum import IntEnum
from types import TracebackType
from weakref import WeakKeyDictionary


class Stage(IntEnum):
    """The order in which objects come to rest: each may still need those of a later stage until it does."""

    OPENING = 0
    COMPUTING = 1
    LOCKING = 2


class Forkable:
    """An object with locks or threads of its own. What it need not do, it inherits from here."""

    def before_fork(self) -> None:
        """Come to rest, and stay at rest until after the fork."""

    def after_fork_in_parent(self) -> None:
        """Carry on."""

    def after_fork_in_child(self) -> None:
        """Start afresh: none of the parent's threads exist here."""


_objects: "WeakKeyDictionary[Forkable, Stage]" = WeakKeyDictionary()
_mine = threading.local()
_forking = threading.RLock()
_imported_in = os.getpid()
_inherited = threading.Event()


def protect(item: Forkable, stage: Stage) -> None:
    """Call ``item`` around every fork, for as long as it lives.

    If another thread is forking, this waits until it has: a new object was not asked to come to rest, and might be in the
    middle of something at the fork. So never call this while holding a lock that ``before_fork`` takes.
    """
    with _forking:
        _objects[item] = stage


class ForkSafeLock(Forkable):
    """A reentrant lock that no other thread holds at a fork. The child's is free.

    Hold it for short, simple steps only: a fork waits for it, and nothing that is protected may be made under it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        protect(self, Stage.LOCKING)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Wait until no other thread holds the lock."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Release the lock."""
        let_go(self._lock)

    def after_fork_in_child(self) -> None:
        """Replace the lock."""
        self._lock = threading.RLock()


def is_forked() -> bool:
    """Return whether this process was forked from one that had imported the package."""
    return os.getpid() != _imported_in


def let_go(lock: "threading.Lock | threading.RLock | threading.Condition") -> None:
    """Release a lock that was taken before the fork, unless Ctrl-C or a time-out ended the wait for it."""
    with suppress(RuntimeError):
        lock.release()


def _before() -> None:
    _mine.resting = []
    _forking.acquire()  # two threads may fork at once
    for item, _ in sorted(_objects.items(), key=lambda pair: pair[1]):
        _mine.resting.append(item)
        item.before_fork()


def _in_parent() -> None:
    try:
        while _mine.resting:
            _mine.resting.pop().after_fork_in_parent()
    finally:
        let_go(_forking)


def _in_child() -> None:
    global _forking  # noqa: PLW0603 - another thread may have waited for the old one
    _forking = threading.RLock()
    # The tokenizer's thread pool did not survive: it would be waited for if the user had set this to "true".
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if Stage.COMPUTING in _objects.values():
        _inherited.set()
    _mine.resting.clear()
    for item in list(_objects):
        item.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


@atexit.register
def _skip_exit_handlers() -> None:
    """Let a forked child end without the exit handlers of C libraries, which were set up for the parent's threads.

    Rarely, a child that had computed and then called ``sys.exit`` hung after Python itself had ended, where only those
    handlers run: OpenMP's, for one, waits for its threads. The handlers only free what the system takes back anyway, and
    C's output is still written. Children of ``multiprocessing`` never run them.
    """
    if not _inherited.is_set():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc only
        # Handlers run in reverse order.
        libc.on_exit(libc._exit, None)  # noqa: SLF001 - C's own name
        libc.__cxa_atexit(libc.fflush, None, None)  # noqa: SLF001 - C's own name
