"""The processes of a cluster on this machine, found among those that its nodes started."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from ray.cluster_utils import Cluster


def actors(cluster: Cluster, kind: str) -> dict[int, int]:
    """Give the process of every actor of a class, with that of its node."""
    nodes = _nodes(cluster)
    return {pid: parent for pid, parent, title in _processes() if parent in nodes and kind in title}


def remove_node(cluster: Cluster, pid: int) -> None:
    """End the node that this is the process of, with all that runs there."""
    cluster.remove_node(_nodes(cluster)[pid], allow_graceful=False)


def _nodes(cluster: Cluster) -> dict[int, Any]:
    nodes = cluster.worker_nodes
    return {raylet.process.pid: node for node in nodes for raylet in node.all_processes.get("raylet", ())}


def all_end(cluster: Cluster, kind: str, seconds: float = 30) -> bool:
    """Wait until no actor of a class is left; False when that takes too long."""
    ends = time.perf_counter() + seconds
    while actors(cluster, kind):  # what Ray is told to end ends a little later
        if time.perf_counter() > ends:
            return False
    return True


def kill(pid: int) -> None:
    """End a process at once."""
    os.kill(pid, signal.SIGKILL)


def _processes() -> Iterator[tuple[int, int, str]]:
    listed = subprocess.run(["ps", "-axo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)  # noqa: S607 - as the path has it
    for line in listed.stdout.splitlines():
        pid, parent, title = line.split(maxsplit=2)
        yield int(pid), int(parent), title
