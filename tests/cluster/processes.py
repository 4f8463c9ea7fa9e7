"""The processes of a cluster on this machine, found among those that its nodes started."""

import os
import signal
import subprocess
from collections.abc import Iterator

from ray.cluster_utils import Cluster


def actors(cluster: Cluster, kind: str) -> dict[int, int]:
    """Give the process of every actor of a class, with that of its node."""
    nodes = {process.process.pid for node in cluster.worker_nodes for process in node.all_processes.get("raylet", ())}
    return {pid: parent for pid, parent, title in _processes() if parent in nodes and kind in title}


def kill(pid: int) -> None:
    """End a process at once."""
    os.kill(pid, signal.SIGKILL)


def _processes() -> Iterator[tuple[int, int, str]]:
    listed = subprocess.run(["ps", "-axo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)  # noqa: S607 - as the path has it
    for line in listed.stdout.splitlines():
        pid, parent, title = line.split(maxsplit=2)
        yield int(pid), int(parent), title
