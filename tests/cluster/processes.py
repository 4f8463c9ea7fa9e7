"""The processes of a cluster on this machine, found among those that its nodes started."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from ray.cluster_utils import Cluster


def actors(cluster: Cluster, kind: str) -> dict[int, int]:
    """Give the process of every actor of a class, with that of its node."""
    nodes = {process.process.pid for node in cluster.worker_nodes for process in node.all_processes.get("raylet", ())}
    return {pid: parent for pid, parent, title in _processes() if parent in nodes and kind in title}


def kill(pid: int) -> None:
    """End a process at once."""
    os.kill(pid, signal.SIGKILL)


def _processes() -> Iterator[tuple[int, int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                status, title = (folder / "status").read_text(), (folder / "cmdline").read_text()
            except OSError:
                continue  # it ended meanwhile
            parent = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid"))
            yield int(folder.name), parent, title
