"""Fork safety: nothing is in the middle of anything when a process forks, and the child starts with fresh locks.

A lock that another thread held, or a computation that it was in, would otherwise stay so in the child for ever.
"""

import atexit
import ctypes
import os
import threading
from contextlib import suppress
from enum import IntEnum
from typing import Protocol
from weakref import WeakKeyDictionary


class Stage(IntEnum):
    """When an object comes to rest: each may still need those of a later stage until it does."""

    OPENING = 0
    COMPUTING = 1
    STORING = 2


class Forkable(Protocol):
    """An object with locks or threads of its own."""

    def before_fork(self) -> None:
        """Come to rest and stay so."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Start afresh: no thread of the parent lives on."""
        ...


_objects: "WeakKeyDictionary[Forkable, Stage]" = WeakKeyDictionary()
_mine = threading.local()
_forking = threading.RLock()
_inherited = threading.Event()


def protect(item: Forkable, stage: Stage) -> None:
    """Call ``item`` around every fork, for as long as it lives.

    What is made while another thread forks waits for the end of that: it was not asked to come to rest, so it could be in
    the middle of something at the fork. So nothing may be protected under a lock that ``before_fork`` takes.
    """
    with _forking:
        _objects[item] = stage


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


def let_go(lock: "threading.RLock | threading.Condition") -> None:
    """Release a lock that is to be held since before the fork; it is not where Ctrl-C or a time-out ended the wait."""
    with suppress(RuntimeError):
        lock.release()


def _in_child() -> None:
    global _forking  # noqa: PLW0603 - another thread may have waited for the old one
    _forking = threading.RLock()
    # The tokenizer's thread pool did not survive: with the user's own "true" it would be waited for.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if _objects:
        _inherited.set()
    _mine.resting.clear()
    for item in list(_objects):
        item.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


@atexit.register
def _skip_exit_handlers() -> None:
    """Let a forked child end without the exit handlers of C libraries, which were set up for the parent's threads.

    A child that computed and then left by ``sys.exit`` was seen, rarely, to hang after Python's own end, where nothing but
    those runs: OpenMP's, for one, waits for its threads. They free what the system takes back anyway; output of C is
    written all the same. Children of ``multiprocessing`` never run them.
    """
    if not _inherited.is_set():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc alone has it
        # Those registered last run first.
        libc.on_exit(libc._exit, None)  # noqa: SLF001 - C's own name
        libc.__cxa_atexit(libc.fflush, None, None)  # noqa: SLF001 - C's own name
