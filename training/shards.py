"""The teacher's answers on disk: the tokens of some texts, a state for each token and a vector for each text."""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 127


@dataclass(frozen=True)
class Shard:
    """Some thousand texts, their tokens one after another.

    Attributes:
        sizes: Tokens of each text, without the teacher's special ones, (texts,).
        ids: The teacher's token ids, (tokens,).
        states: The teacher's last states in 8 bits, (tokens, width).
        scales: Factor of each state, (tokens,).
        vectors: The teacher's unit vector of each text, (texts, width).
    """

    sizes: NDArray[np.uint16]
    ids: NDArray[np.uint16]
    states: NDArray[np.int8]
    scales: NDArray[np.float16]
    vectors: NDArray[np.float16]

    def save(self, folder: Path) -> None:
        """Write the whole shard or nothing."""
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for field in fields(self):
            np.save(partial / f"{field.name}.npy", getattr(self, field.name))
        partial.rename(folder)


def load(folder: Path) -> Shard:
    """Open a shard. Its states stay on disk until they are used."""
    return Shard(**{field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(Shard)})


def stored(root: Path) -> list[Path]:
    """Return the folders of all complete shards, in order."""
    return sorted(path for path in root.glob("shard-*") if path.suffix != ".partial")


def in_8_bits(states: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Return states as 8-bit integers, and the factor of each row.

    Args:
        states: (tokens, width).
    """
    scales = (np.abs(states).max(axis=1) / LEVELS).astype(np.float16)
    return np.rint(states / scales[:, None].astype(np.float32)).clip(-LEVELS, LEVELS).astype(np.int8), scales
