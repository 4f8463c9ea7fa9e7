"""Short texts that all differ, and a Parquet file that holds them."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COUNT = int(os.environ.get("RAY_TEXTS", "20000"))
"""Number of texts in the comparison with a single process."""

SUBJECTS = ("cats", "a lease", "stew", "rivers", "swallows", "credit", "tea")
WIDTH = 64
"""Dimensions of the vectors."""


def texts(count: int) -> list[str]:
    """Return texts of several lengths."""
    return [f"{SUBJECTS[n % 7]} {n}{' and more' * (n % 4 == 0)}" for n in range(count)]


def write(path: Path, count: int) -> Path:
    """Write texts and their numbers, in four row groups."""
    pq.write_table(pa.table({"id": range(count), "text": texts(count)}), path, row_group_size=-(-count // 4))
    return path
