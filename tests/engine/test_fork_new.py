"""What is made while a process forks."""

import threading

from mlx_qwen_embeddings import _fork as fork
from mlx_qwen_embeddings._fork import Forkable, Stage, protect
from tests.support.fake_encoder import PATIENCE


class Recorder(Forkable):
    """Notes what happens around a fork, and keeps one waiting where it is told to."""

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


def test_it_waits_for_the_end_of_the_fork() -> None:
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
    making.join(0.2)  # made at once, it would neither rest nor go on, whatever it does by now
    assert slow.go is not None
    slow.go.set()
    forking.join(PATIENCE)
    making.join(PATIENCE)
    assert notes == ["slow rests", "slow goes on", "new is made"]
