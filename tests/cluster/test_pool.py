"""The pool alone, with actors and a Ray of the test's own: what comes in which order is the test's to say."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from mlx_qwen_embeddings.ray import Placement, pool
from mlx_qwen_embeddings.ray.pool import Pool


class Actor:
    """Gives references that are their own results; the first actor is out of reach for part 0, and does part 1."""

    made = 0

    def __init__(self) -> None:
        first = Actor.made == 0
        Actor.made += 1
        self.ready = SimpleNamespace(remote=lambda: ("ready", id(self)))
        self.do = SimpleNamespace(remote=lambda number: ("unavailable" if first and number == 0 else "done", number))


def get(reference: tuple[str, int]) -> int:
    kind, number = reference
    if kind == "unavailable":
        raise ActorUnavailableError("out of reach", None)
    return 100 + number


def test_a_part_that_an_actor_did_before_it_was_out_of_reach_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    fake = SimpleNamespace(
        get=get, kill=killed.append, wait=lambda references, num_returns: (references[:1], references[1:])
    )
    monkeypatch.setattr(pool, "ray", fake)
    monkeypatch.setattr(Actor, "made", 0)
    monkeypatch.setattr(Placement, "wanted", lambda self: 1)
    assert sorted(Pool(Actor, Placement(concurrency=1)).run([0, 1, 2])) == [100, 101, 102]
    assert Actor.made == 2
    assert len(killed) == 2  # the one out of reach, and at the end the other
