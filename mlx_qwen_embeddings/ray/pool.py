"""Actors that come as there is room for them, and whose parts go to others when they die."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from mlx_qwen_embeddings.errors import WorkersDiedError
from mlx_qwen_embeddings.ray.placement import CALLS_AT_ONCE, Placement

MOST_DEATHS = 3
"""Actors that may die over one part, or before any of them is ready, until that is no accident."""


class Pool:
    """Gives numbered parts to actors.

    An actor belongs to no node: when one dies with its node, its parts go to those that live, and another takes its place
    once there is room. An actor that Ray restarts would keep its parts, and wait with them for a node that may not return.
    """

    def __init__(self, make: Callable[[], Any], placement: Placement) -> None:
        """Say how an actor is made.

        Args:
            make: Gives an actor with ``ready()``, and ``do(number)``, which gives rows.
            placement: How many there are to be.
        """
        self._make, self._placement = make, placement
        self._arriving: dict[Any, Any] = {}
        self._in_hand: dict[Any, tuple[Any, int]] = {}
        self._load: dict[Any, int] = {}
        self._deaths = Counter[int | None]()  # over each part; over None, those that died before they were ready

    def run(self, numbers: Sequence[int]) -> Iterator[int]:
        """Do all parts and give the rows of each as it is done.

        Raises:
            Exception: What an actor raised.
            WorkersDiedError: When actors die without end.
        """
        self._waiting = deque(numbers)
        try:
            self._recruit()
            while self._waiting or self._in_hand:
                self._hand_out()
                done, _ = ray.wait([*self._arriving, *self._in_hand], num_returns=1)
                for reference in done:
                    if reference in self._arriving:
                        self._welcome(reference)
                    elif (rows := self._collect(reference)) is not None:
                        yield rows
        finally:
            for actor in [*self._arriving.values(), *self._load]:
                ray.kill(actor)

    def _recruit(self) -> None:
        """Ask for as many actors as there is room and work for, and one more, which comes when a node does."""
        work = len(self._waiting) + len(self._in_hand)
        while len(self._load) + len(self._arriving) < min(self._placement.wanted(), work):
            actor = self._make()
            self._arriving[actor.ready.remote()] = actor

    def _hand_out(self) -> None:
        # The least busy first, so that the last parts are not all with one.
        for load in range(CALLS_AT_ONCE):
            for actor in [actor for actor, busy in self._load.items() if busy == load]:
                if self._waiting:
                    number = self._waiting.popleft()
                    self._in_hand[actor.do.remote(number)] = actor, number
                    self._load[actor] += 1

    def _welcome(self, reference: Any) -> None:
        actor = self._arriving.pop(reference)
        alive = self._result(reference, actor, None) is not None
        if alive:
            self._load[actor] = 0
            self._deaths.pop(None, None)
        if not alive or not self._arriving:
            self._recruit()

    def _collect(self, reference: Any) -> int | None:
        actor, number = self._in_hand.pop(reference)
        rows = self._result(reference, actor, number)
        if rows is not None:
            if actor in self._load:  # else it was lost over its other part, after it had done this one
                self._load[actor] -= 1
            return rows
        self._waiting.appendleft(number)
        if self._load.pop(actor, None) is not None:
            self._recruit()
        return None

    def _result(self, reference: Any, actor: Any, number: int | None) -> int | None:
        """Give what an actor returned; None when it died."""
        try:
            result: int = ray.get(reference)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except (RayActorError, ActorUnavailableError) as error:
            ray.kill(actor)  # it may only be out of reach
            self._deaths[number] += 1
            if self._deaths[number] >= MOST_DEATHS:
                over = "before they were ready" if number is None else f"over part {number}"
                message = f"{MOST_DEATHS} actors died {over}, for lack of memory maybe, or with their nodes: {error}"
                raise WorkersDiedError(message) from error
            return None
        return result
