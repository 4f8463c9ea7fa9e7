"""How many actors there are, and what each is given of its node."""

from dataclasses import dataclass, replace
from typing import Any, Self

import ray
from ray.data import ActorPoolStrategy

CALLS_AT_ONCE = 2
"""Batches that an actor has in hand: while its engine computes one, the next is unpacked."""

_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU"}
"""What Ray calls them where it tells what a node has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Actors, one engine each.

    Attributes:
        concurrency: So many actors; a pair is the fewest and the most; None is as many as the cluster has room for, from
            one on, as there is work for them.
        num_cpus: CPUs of an actor, which are also the cores that its engine computes with; None is all but one of the
            smallest node's, so that a node has one copy of the weights and room for reading. 0 is for actors with a GPU.
        num_gpus: GPUs of an actor; None is one where the cluster has any, so that then only nodes with one are used. Ray
            does not count a Mac's: there an actor computes on it all the same.
    """

    concurrency: int | tuple[int, int] | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers of actors that mean nothing.

        Raises:
            ValueError: The message says which would do.
        """
        if self.concurrency is None:
            return
        fewest, most = self.concurrency if isinstance(self.concurrency, tuple) else (self.concurrency,) * 2
        if not 1 <= fewest <= most:
            message = (
                f"concurrency={self.concurrency}: give a number of actors from 1 on, or a pair of the fewest and the most"
            )
            raise ValueError(message)

    def resources(self) -> dict[str, Any]:
        """Give what Ray is to reserve for each actor.

        Raises:
            ValueError: When that would be nothing, so that a node would hold any number.
        """
        nodes = _nodes()
        gpus = float(any(node.get("GPU", 0) >= 1 for node in nodes)) if self.num_gpus is None else self.num_gpus
        cpus = self.num_cpus
        if gpus:
            return {"num_gpus": gpus} | ({} if cpus is None else {"num_cpus": cpus})
        if cpus == 0:
            message = (
                "num_cpus=0 is for actors with a GPU, and these have none: give each some of a CPU, such as num_cpus=1"
            )
            raise ValueError(message)
        smallest = min((node["CPU"] for node in nodes if node.get("CPU", 0) >= 1), default=1)
        return {"num_cpus": max(1, int(smallest) - 1) if cpus is None else cpus}

    def settled(self) -> Self:
        """Give what this is on the nodes of now, for a run in which nodes come and go.

        Raises:
            ValueError: As ``resources``.
        """
        return replace(self, **({"num_gpus": 0} | self.resources()))

    def wanted(self) -> int:
        """Give how many actors to ask for: where nothing bounds them, one more than there is room for now."""
        if isinstance(self.concurrency, int):
            return self.concurrency
        most = None if self.concurrency is None else self.concurrency[1]
        needed = self.resources()
        room = 1 + sum(_holds(node, needed) for node in _nodes())
        return room if most is None else min(room, most)

    def check_fits(self) -> None:
        """Refuse an actor that no node could hold: Ray would wait for ever for one that can.

        Raises:
            ValueError: The message says what an actor was to have, and what the largest node has.
        """
        needed, nodes = self.resources(), _nodes()
        if any(_holds(node, needed) >= 1 for node in nodes):
            return
        largest = max([node.get(_NAMES[name], 0) for name in needed] for node in nodes)
        asked = " and ".join(f"{name}={amount:g}" for name, amount in needed.items())
        there = " and ".join(f"{amount:g} {_NAMES[name]}s" for name, amount in zip(needed, largest, strict=True))
        message = f"no node of the cluster can hold an actor of {asked}: the largest has {there}, so ask for less"
        raise ValueError(message)

    def check_room_for_reading(self) -> None:
        """Refuse actors that take every CPU: Ray Data would wait for ever for one to read with.

        Raises:
            ValueError: The message says how many there are.
        """
        fewest = self.concurrency[0] if isinstance(self.concurrency, tuple) else self.concurrency or 1
        taken, there = fewest * self.resources().get("num_cpus", 0), sum(node.get("CPU", 0) for node in _nodes())
        if there - taken < 1:
            message = (
                f"{fewest} actors of {taken / fewest:g} CPUs leave none of the cluster's {there:g} to read with: "
                "take a smaller num_cpus or concurrency"
            )
            raise ValueError(message)

    def strategy(self) -> ActorPoolStrategy:
        """Give Ray Data's description of the actors."""
        calls: dict[str, Any] = {"max_concurrent_calls_per_actor": CALLS_AT_ONCE, "enable_true_multi_threading": True}
        if isinstance(self.concurrency, int):
            return ActorPoolStrategy(size=self.concurrency, **calls)
        fewest, most = self.concurrency or (1, None)
        return ActorPoolStrategy(min_size=fewest, max_size=most, **calls)


def _holds(node: dict[str, float], needed: dict[str, float]) -> int:
    """Give how many actors a node that does nothing else has room for."""
    return int(min(node.get(_NAMES[name], 0) / amount for name, amount in needed.items() if amount))


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
