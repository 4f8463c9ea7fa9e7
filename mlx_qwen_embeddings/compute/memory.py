"""Estimate what a piece of a batch takes in memory on the CPU before it runs, and ask the system how much there is.

Running out of memory raises nothing that could be caught: the system kills the process.
"""

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import human_size
from mlx_qwen_embeddings.models.attention import CAUSAL_ROWS, SCORE_BYTES

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes that can be allocated without swapping, or None if the system does not say.

    On Linux this counts what the kernel could free at once (``MemAvailable``), and a container's limit if that is lower.
    Other systems only report how much memory the machine has.
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
    # This counts as used but is freed on demand: mostly the cache of files that were read, such as the weights.
    stat = _CGROUP / "memory.stat"
    if not stat.is_file():
        return 0
    counted = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
    return sum(int(counted.get(name, 0)) for name in ("inactive_file", "slab_reclaimable"))


def resident_memory() -> int:
    """Return this process's memory in bytes: the current value on Linux, the peak elsewhere."""
    if _STATM.is_file():
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes


HIDDEN_ROWS, INNER_ROWS, HEAD_ROWS = 6, 3, 3
"""How many arrays of one layer live at once: of the width of the hidden states, of the feed-forward, of all heads. With the
scores below, the estimate is 1.1 to 2.1 times MLX's peak on nano, on the 0.6B's shape at a quarter of its width, and with
one head reading up to 32,768 tokens."""

SCORES = 2
"""How many arrays the size of an attention block's scores live at once."""

WORTH_ASKING = 2**28
"""For fewer bytes than this the system is not asked how much is free."""

SHARE = 0.9
"""Share of the free memory that a batch may take."""


def piece_bytes(config: Mapping[str, Any], rows: int, length: int, before: int = 0) -> int:
    """Estimate the peak bytes of arrays, without the weights, while a piece runs in float32.

    Args:
        config: The model's ``config.json``.
        rows: Texts in the piece.
        length: Tokens of each text, including padding.
        before: Tokens of a kept prompt.
    """
    heads, hidden, inner = (int(config[name]) for name in ("num_attention_heads", "hidden_size", "intermediate_size"))
    head_dim = int(config.get("head_dim") or hidden // heads)
    width = HIDDEN_ROWS * hidden + INNER_ROWS * inner + HEAD_ROWS * heads * head_dim
    scores = min(SCORE_BYTES, 4 * rows * heads * min(length, CAUSAL_ROWS) * (length + before))
    return 4 * rows * length * width + SCORES * scores


def check_memory(needed: Sequence[int], lanes: int, reusable: int, tokens: int) -> None:
    """Refuse a batch that does not fit into memory.

    Args:
        needed: Bytes of each piece.
        lanes: How many pieces run at once.
        reusable: Bytes that MLX has freed and can use again.
        tokens: Tokens of the whole batch, for the message.

    Raises:
        MemoryError: If it does not fit; the message says what it needs and what is free.
    """
    together = sum(sorted(needed)[-lanes:])
    if together < WORTH_ASKING:
        return
    available = available_memory()
    if available is None or together <= SHARE * (available + reusable):
        return
    raise MemoryError(
        f"out of memory: {tokens:,} tokens at once need about {human_size(together)} besides the weights, and "
        f"{human_size(available + reusable)} are free: free some, or cut the text with max_length"
    )
