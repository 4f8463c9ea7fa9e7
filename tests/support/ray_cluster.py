"""A Ray cluster on this machine, and the processes that its nodes started."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.cluster_utils import Cluster

NODES = 2
STORE: Any = {"object_store_memory": 100 * 2**20}
"""Bytes that each node has for objects."""


def new_cluster() -> Cluster:
    """Start a head without CPUs, connect to it, and add nodes to compute on.

    Ray takes any existing node for the driver, and the driver's node cannot be removed: so it must be the head.
    """
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **STORE})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
    for _ in range(NODES):
        add_node(cluster)
    return cluster


def add_node(cluster: Cluster, **more: Any) -> Any:
    """Add a node of two CPUs."""
    return cluster.add_node(num_cpus=2, **STORE, **more)


def actors(cluster: Cluster, kind: str) -> dict[int, int]:
    """Return the process of every actor of a class, and the process of its node."""
    nodes = _nodes(cluster)
    return {pid: parent for pid, parent in running(kind).items() if parent in nodes}


def running(kind: str) -> dict[int, int]:
    """Return the processes of a class's actors and their parents, including those whose node was removed."""
    return {pid: parent for pid, parent, title in _processes() if kind in title}


def remove_node(cluster: Cluster, pid: int) -> None:
    """Kill the node that has this process, with everything that runs there."""
    cluster.remove_node(_nodes(cluster)[pid], allow_graceful=False)


def _nodes(cluster: Cluster) -> dict[int, Any]:
    nodes = cluster.worker_nodes
    return {raylet.process.pid: node for node in nodes for raylet in node.all_processes.get("raylet", ())}


def all_end(cluster: Cluster, kind: str, seconds: float = 60) -> bool:
    """Wait until no actor of a class is left; return False when that takes too long."""
    return _becomes_true(lambda: not actors(cluster, kind), seconds)


def are_gone(pids: Iterable[int], kind: str, seconds: float = 60) -> bool:
    """Wait until none of these actors' processes is left; return False when that takes too long."""
    wanted = set(pids)
    return _becomes_true(lambda: not wanted & running(kind).keys(), seconds)


def kill(pid: int) -> None:
    """Kill a process at once."""
    os.kill(pid, signal.SIGKILL)


def _becomes_true(condition: Callable[[], bool], seconds: float) -> bool:
    ends = time.perf_counter() + seconds
    while not condition():  # Ray ends processes a little after it was told to
        if time.perf_counter() > ends:
            return False
    return True


def _processes() -> Iterator[tuple[int, int, str]]:
    command = ["ps", "-axo", "pid=,ppid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, parent, title = line.split(maxsplit=2)
        yield int(pid), int(parent), title
