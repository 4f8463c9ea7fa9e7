"""Whose turn it is to compute: MLX has one default device a process, so models on two devices take turns."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class DefaultDevice(Protocol):
    """What is needed of ``mlx.core``."""

    def default_device(self) -> Any:
        """Read it."""

    def set_default_device(self, device: Any) -> None:
        """Set it."""


class Turns:
    """Lets any number compute on one device at once, and those on another one after them, in the order they came."""

    def __init__(self) -> None:
        """Nobody computes."""
        self.forget()

    def forget(self) -> None:
        """Start afresh, in a forked child."""
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._device: Any = None
        self._before: Any = None
        self._at_work = 0

    @contextmanager
    def on(self, device: Any, mlx: DefaultDevice) -> Iterator[None]:
        """Make a device the default one in this block; what it was before comes back when nobody computes."""
        self._enter(device, mlx)
        try:
            yield
        finally:
            with self._changed:
                self._at_work -= 1
                if not self._at_work:
                    mlx.set_default_device(self._before)
                self._changed.notify_all()

    def _enter(self, device: Any, mlx: DefaultDevice) -> None:
        me = object()
        with self._changed:
            self._line.append(me)
            try:
                self._changed.wait_for(lambda: self._line[0] is me and (not self._at_work or self._device == device))
                if not self._at_work:
                    self._before, self._device = mlx.default_device(), device
                    mlx.set_default_device(device)
                self._at_work += 1
            finally:
                self._line.remove(me)
                self._changed.notify_all()
