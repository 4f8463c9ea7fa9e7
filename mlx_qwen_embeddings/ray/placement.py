"""The number of actors, and the resources that each reserves on its node."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy

CALLS_AT_ONCE = 2
"""Batches that an actor works on: it reads one while its engine computes the other."""

_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU"}
"""Ray's names for the resources of a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Actors with one engine each.

    Attributes:
        concurrency: Number of actors, or a pair of the fewest and the most. None starts with one, and adds actors while
            there is work for them and room in the cluster.
        num_cpus: CPUs of an actor, which are also the cores that its engine computes with. None takes the smallest node's
            CPUs except one, so that a node holds one copy of the weights and can still read. 0 is for actors with a GPU.
        num_gpus: GPUs of an actor. None means one if the cluster has any, so that only nodes with a GPU are used. Ray does
            not count a Mac's GPU, but an actor on a Mac uses it all the same.
    """

    concurrency: int | tuple[int, int] | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` for an impossible number of actors."""
        if self.concurrency is None:
            return
        fewest, most = self.concurrency if isinstance(self.concurrency, tuple) else (self.concurrency,) * 2
        if not 1 <= fewest <= most:
            remedy = "use a number of actors from 1, or a pair of the fewest and the most"
            raise ValueError(f"concurrency={self.concurrency}: {remedy}")

    def resources(self) -> dict[str, Any]:
        """Return the resources that Ray reserves for each actor.

        Raises:
            ValueError: When an actor would reserve nothing, so that Ray would put any number of them on a node.
        """
        nodes = _nodes()
        gpus = float(any(node.get("GPU", 0) >= 1 for node in nodes)) if self.num_gpus is None else self.num_gpus
        if gpus:
            return {"num_gpus": gpus} | ({} if self.num_cpus is None else {"num_cpus": self.num_cpus})
        if self.num_cpus == 0:
            raise ValueError(
                "num_cpus=0 is for actors with a GPU, and these have none: use at least a part of a CPU, or num_cpus=1"
            )
        smallest = min((node["CPU"] for node in nodes if node.get("CPU", 0) >= 1), default=1)
        return {"num_cpus": max(1, int(smallest) - 1) if self.num_cpus is None else self.num_cpus}

    def check_fits(self) -> None:
        """Raise ``ValueError`` when no node can hold an actor: Ray would wait forever."""
        needed, nodes = self.resources(), _nodes()
        if any(all(node.get(_NAMES[name], 0) >= amount for name, amount in needed.items()) for node in nodes):
            return
        largest = max([node.get(_NAMES[name], 0) for name in needed] for node in nodes)
        asked = " and ".join(f"{name}={amount:g}" for name, amount in needed.items())
        there = " and ".join(f"{amount:g} {_NAMES[name]}s" for name, amount in zip(needed, largest, strict=True))
        raise ValueError(f"no node of the cluster can hold an actor of {asked}: the largest has {there}, so ask for less")

    def check_room_for_reading(self) -> None:
        """Raise ``ValueError`` when the actors leave no CPU for reading: Ray Data would wait for one forever."""
        fewest = self.concurrency[0] if isinstance(self.concurrency, tuple) else self.concurrency or 1
        taken, there = fewest * self.resources().get("num_cpus", 0), sum(node.get("CPU", 0) for node in _nodes())
        if there - taken < 1:
            raise ValueError(
                f"{fewest} actors of {taken / fewest:g} CPUs leave none of the cluster's {there:g} to read with: "
                "use a smaller num_cpus or concurrency"
            )

    def strategy(self) -> ActorPoolStrategy:
        """Return Ray Data's compute strategy for the actors."""
        calls: dict[str, Any] = {"max_concurrent_calls_per_actor": CALLS_AT_ONCE, "enable_true_multi_threading": True}
        if isinstance(self.concurrency, int):
            return ActorPoolStrategy(size=self.concurrency, **calls)
        fewest, most = self.concurrency or (1, None)
        return ActorPoolStrategy(min_size=fewest, max_size=most, **calls)


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
