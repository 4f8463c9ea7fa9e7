"""How much memory a process may still take."""

import os
import resource
import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Give the bytes that can be had without swapping, as far as the system tells.

    Linux counts what it could free at once (``MemAvailable``), and a container's own limit where that is lower; other
    systems tell only how much there is in all.

    Returns:
        None when the system tells nothing.
    """
    known = [amount for amount in (_free(), _left_in_container()) if amount is not None]
    return min(known) if known else None


def _free() -> int | None:
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _left_in_container() -> int | None:
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if not limit.is_file() or not used.is_file():
        return None
    most = limit.read_text(encoding="ascii").strip()
    return None if most == "max" else int(most) - int(used.read_text(encoding="ascii")) + _reclaimable()


def _reclaimable() -> int:
    # Counted as used, but freed as soon as somebody needs it: above all the files that were read, such as the weights.
    stat = _CGROUP / "memory.stat"
    if not stat.is_file():
        return 0
    counted = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
    return sum(int(counted.get(name, 0)) for name in ("inactive_file", "slab_reclaimable"))


def resident_memory() -> int:
    """Give the memory of this process in bytes: what it has now on Linux, the most that it had elsewhere."""
    if _STATM.is_file():
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes
