"""Watch what is on the disk when files get their names: after a power cut, only that is left."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

State = tuple[int, int]


@dataclass
class Rename:
    """A file or a folder that got its name.

    Attributes:
        target: The name.
        content_synced: Whether all of its content was on the disk before, under another name.
        name_synced: Whether the folder that holds the name was written to the disk afterwards.
    """

    target: Path
    content_synced: bool
    name_synced: bool = False

    @property
    def durable(self) -> bool:
        """Whether a power cut at any time leaves the old file or the new one, and the new one from now on."""
        return self.content_synced and self.name_synced


@contextmanager
def watched_renames() -> Iterator[list[Rename]]:
    """Collect the renames of this process; only those below temporary folders are expected."""
    synced: dict[int, State] = {}
    renames: list[Rename] = []
    fsync, replace = os.fsync, os.replace

    def state(stat: os.stat_result) -> State:
        return stat.st_size, stat.st_mtime_ns

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        stat = os.fstat(descriptor)
        synced[stat.st_ino] = state(stat)
        for rename in renames:
            rename.name_synced |= rename.target.parent.stat().st_ino == stat.st_ino

    def watched_replace(source: Any, target: Any, **more: Any) -> None:
        path = Path(source)
        content = [path, *path.rglob("*")] if path.is_dir() else [path]
        safe = path != Path(target) and all(synced.get(part.stat().st_ino) == state(part.stat()) for part in content)
        replace(source, target, **more)
        renames.append(Rename(Path(target), safe))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", watched_fsync)
        for name in ("replace", "rename"):
            patch.setattr(os, name, watched_replace)
        yield renames
