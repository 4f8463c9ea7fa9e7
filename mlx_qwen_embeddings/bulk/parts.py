"""The folder of a job in hand: vectors in parts of fixed row ranges, each written whole or not at all."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._files import replaced

MANIFEST, LOCK, WHOLE = "manifest.json", "lock", "whole"


@dataclass(frozen=True, slots=True)
class Parts:
    """Vectors of some rows of a job.

    Attributes:
        folder: Beside the target, so that the finished file is moved in one step.
        rows: Rows of the job.
        dimensions: Width of a vector.
        size: Rows a part; the last one may have fewer.
    """

    folder: Path
    rows: int
    dimensions: int
    size: int

    @property
    def count(self) -> int:
        """Number of parts of the whole job."""
        return -(-self.rows // self.size)

    def done(self) -> int:
        """Count the parts that are there, from the first one up to a gap."""
        return next((number for number in range(self.count) if not self.has(number)), self.count)

    def has(self, number: int) -> bool:
        """Say whether a part is there, and whole."""
        return self._load(number) is not None

    def write(self, number: int, vectors: NDArray[np.float32]) -> None:
        """Store a part."""
        with replaced(self._path(number)) as file:
            np.save(file, vectors, allow_pickle=False)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Give the vectors of all rows, part after part."""
        return (self._whole(number) for number in range(self.count))

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:08d}.npy"

    def _whole(self, number: int) -> NDArray[np.float32]:
        vectors = self._load(number)
        if vectors is None:
            message = f"{self._path(number)} was damaged while the job ran: run the same command again"
            raise OSError(message)
        return vectors

    def _load(self, number: int) -> NDArray[np.float32] | None:
        try:
            vectors: NDArray[np.float32] = np.load(self._path(number), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        shape = (min(self.size, self.rows - number * self.size), self.dimensions)
        return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, made if need be, for one process; the system lets go when that ends, however it ends.

    Raises:
        OSError: When another process has it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"another process is at work in {folder}: wait for it, or choose another output"
                raise OSError(message) from error
            if _is_there(file, folder / LOCK):  # the one who had it may just have removed it
                yield
                return


def _is_there(file: IO[str], path: Path) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Give what the folder's job is; None where none was begun."""
    path = folder / MANIFEST
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def write_manifest(folder: Path, job: Mapping[str, Any], *, finished: bool) -> None:
    """Say what the folder's job is, and whether the whole file was written."""
    with replaced(folder / MANIFEST) as file:
        file.write(json.dumps({"finished": finished, "job": job}, indent=2).encode())


def remove(folder: Path) -> None:
    """Remove the folder, its manifest last: cut short, it goes on with the next run."""
    empty(folder)
    (folder / LOCK).unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    with suppress(OSError):  # another process may have come in just now
        folder.rmdir()


def empty(folder: Path) -> None:
    """Remove all that was computed."""
    for path in sorted(folder.glob("part-*")):
        path.unlink(missing_ok=True)
    for name in (WHOLE, f"{MANIFEST}.tmp"):
        (folder / name).unlink(missing_ok=True)
