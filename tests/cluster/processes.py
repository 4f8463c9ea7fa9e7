"""The processes of a cluster on this machine, found among those that its nodes started."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ray.cluster_utils import Cluster


def actors(cluster: Cluster, kind: str) -> dict[int, int]:
    """Give the process of every actor of a class, with that of its node."""
    nodes = _nodes(cluster)
    return {pid: parent for pid, parent in running(kind).items() if parent in nodes}


def running(kind: str) -> dict[int, int]:
    """Give the processes of a class's actors with their parents, of nodes that are gone too."""
    return {pid: parent for pid, parent, title in _processes() if kind in title}


def remove_node(cluster: Cluster, pid: int) -> None:
    """End the node that this is the process of, with all that runs there."""
    cluster.remove_node(_nodes(cluster)[pid], allow_graceful=False)


def _nodes(cluster: Cluster) -> dict[int, Any]:
    nodes = cluster.worker_nodes
    return {raylet.process.pid: node for node in nodes for raylet in node.all_processes.get("raylet", ())}


def all_end(cluster: Cluster, kind: str, seconds: float = 30) -> bool:
    """Wait until no actor of a class is left; False when that takes too long."""
    return _comes(lambda: not actors(cluster, kind), seconds)


def are_gone(pids: Iterable[int], kind: str, seconds: float = 60) -> bool:
    """Wait until none of these actors' processes is left; False when that takes too long."""
    wanted = set(pids)
    return _comes(lambda: not wanted & running(kind).keys(), seconds)


def kill(pid: int) -> None:
    """End a process at once."""
    os.kill(pid, signal.SIGKILL)


def _comes(condition: Callable[[], bool], seconds: float) -> bool:
    ends = time.perf_counter() + seconds
    while not condition():  # what Ray is told to end ends a little later
        if time.perf_counter() > ends:
            return False
    return True


def _processes() -> Iterator[tuple[int, int, str]]:
    listed = subprocess.run(["ps", "-axo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)  # noqa: S607 - as the path has it
    for line in listed.stdout.splitlines():
        pid, parent, title = line.split(maxsplit=2)
        yield int(pid), int(parent), title
