"""How many actors there are, and what each is given of its node."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy

CALLS_AT_ONCE = 2
"""Batches that an actor has in hand: while its engine computes one, the next is unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Actors, one engine each.

    Attributes:
        concurrency: So many actors; a pair is the fewest and the most; None is as many as the cluster has room for, from
            one on, as there is work for them.
        num_cpus: CPUs of an actor, which are also the cores that its engine computes with; None is all but one of the
            smallest node's, so that a node has one copy of the weights and room for reading.
        num_gpus: GPUs of an actor; None is one where the cluster has any, so that then only nodes with one are used. Ray
            does not count a Mac's: there an actor computes on it all the same.
    """

    concurrency: int | tuple[int, int] | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None

    def resources(self) -> dict[str, Any]:
        """Give what Ray is to reserve for each actor."""
        nodes = _nodes()
        gpus = float(any(node.get("GPU", 0) >= 1 for node in nodes)) if self.num_gpus is None else self.num_gpus
        cpus = self.num_cpus
        if gpus:
            return {"num_gpus": gpus} | ({} if cpus is None else {"num_cpus": cpus})
        smallest = min((node["CPU"] for node in nodes if node.get("CPU", 0) >= 1), default=1)
        return {"num_cpus": max(1, int(smallest) - 1) if cpus is None else cpus}

    def wanted(self) -> int:
        """Give how many actors to ask for: where nothing bounds them, one more than there is room for now."""
        if isinstance(self.concurrency, int):
            return self.concurrency
        most = None if self.concurrency is None else self.concurrency[1]
        needed = {name.removeprefix("num_").upper()[:3]: amount for name, amount in self.resources().items()}
        room = 1 + sum(
            int(min(node.get(name, 0) / amount for name, amount in needed.items() if amount)) for node in _nodes()
        )
        return room if most is None else min(room, most)

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


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
