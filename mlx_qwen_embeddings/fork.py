"""Fork safety: nothing is in the middle of anything when a process forks, and the child starts with fresh locks.

A lock that another thread held, or a computation that it was in, would otherwise stay so in the child for ever.
"""

import os
from typing import Protocol
from weakref import WeakSet


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


_objects: "WeakSet[Forkable]" = WeakSet()
_resting: list[Forkable] = []


def protect(item: Forkable) -> None:
    """Call ``item`` around every fork, for as long as it lives."""
    _objects.add(item)


def _before() -> None:
    for item in list(_objects):
        item.before_fork()
        _resting.append(item)


def _in_parent() -> None:
    while _resting:
        _resting.pop().after_fork_in_parent()


def _in_child() -> None:
    # The tokenizer's thread pool did not survive either; it would notice by itself, but print a warning.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    while _resting:
        _resting.pop().after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
