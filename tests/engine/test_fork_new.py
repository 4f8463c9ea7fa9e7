"""Objects made while a process forks."""

import threading

from mlx_qwen_embeddings import _fork as fork
from mlx_qwen_embeddings._fork import Forkable, Stage, protect
from tests.support.fake_encoder import PATIENCE


class Recorder(Forkable):
    """Records what happens around a fork, and delays the fork if it is given an event to wait for."""

    def __init__(self, name: str, notes: list[str], go: threading.Event | None = None) -> None:
        self.name, self.notes, self.go, self.begun = name, notes, go, threading.Event()

    def before_fork(self) -> None:
        self.notes.append(f"{self.name} rests")
        self.begun.set()
        assert self.go is None or self.go.wait(PATIENCE)

    def after_fork_in_parent(self) -> None:
        self.notes.append(f"{self.name} goes on")

    def after_fork_in_child(self) -> None:
        raise AssertionError


def test_protecting_a_new_object_waits_for_the_end_of_the_fork() -> None:
    notes: list[str] = []
    slow, new = Recorder("slow", notes, threading.Event()), Recorder("new", notes)
    protect(slow, Stage.OPENING)

    def around_a_fork() -> None:
        fork._before()
        fork._in_parent()

    def make() -> None:
        protect(new, Stage.COMPUTING)
        notes.append("new is made")

    forking, making = threading.Thread(target=around_a_fork), threading.Thread(target=make)
    forking.start()
    assert slow.begun.wait(PATIENCE)
    making.start()
    making.join(0.2)  # if it did not wait, it would neither rest nor be told to carry on
    assert slow.go is not None
    slow.go.set()
    forking.join(PATIENCE)
    making.join(PATIENCE)
    assert notes == ["slow rests", "slow goes on", "new is made"]
