"""Run a function in a forked process and get its result; a process that hangs is killed and fails the test."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

FORK = multiprocessing.get_context("fork")

PATIENCE = 90.0
"""Seconds after which a child counts as hanging: on a busy machine, one that loads several models takes a minute."""


class Child:
    """A forked child of this process."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        """Fork, and call the function in the child."""
        self._receiver, sender = FORK.Pipe(duplex=False)
        self._process = FORK.Process(target=_send, args=(sender, compute))
        self._process.start()
        sender.close()

    def result(self) -> Any:
        """Wait for the function's result, or raise what it raised."""
        try:
            assert self._receiver.poll(PATIENCE), "the child hangs"
            failed, answer = self._receiver.recv()
            self._process.join(PATIENCE)
            assert self._process.exitcode == 0, f"the child ended with {self._process.exitcode}"
        finally:
            self._process.kill()
            self._process.join(PATIENCE)
        if failed:
            raise answer
        return answer


def _send(sender: Connection, compute: Callable[[], Any]) -> None:
    try:
        sender.send((False, compute()))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        sender.send((True, error))
