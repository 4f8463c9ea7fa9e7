"""Kill bulk jobs at random moments and at every disk operation, and continue them."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import embed_file
from tests.kills.bulk import PART, compare, kill_until_done, start, write_rows

pytestmark = pytest.mark.heavy


def test_a_job_killed_at_random_moments_ends_with_the_same_output(tmp_path: Path, engine: EmbeddingEngine) -> None:
    source = write_rows(tmp_path / "in.jsonl", 200)
    target, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    embed_file(source, whole, model=engine, part_rows=PART, dimensions=64)
    kills, written = kill_until_done(source, target, random.Random(3), most=60)
    assert kills > 4
    # No reported part was written twice. A part does not count if its run was killed before reporting it.
    assert written <= 25
    compare(target, whole)
    # A run that is killed after it has moved the target leaves the folder; the next run removes it.
    if (tmp_path / "out.jsonl.parts").exists():
        embed_file(source, target, model=engine, part_rows=PART, dimensions=64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_finished_parts_are_not_computed_again(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 200)
    job = start(source, tmp_path / "out.npy")
    assert job.stdout is not None
    assert [job.stdout.readline() for _ in range(3)] == ["part 0\n", "part 1\n", "part 2\n"]
    job.kill()
    there = 3 + job.communicate()[0].count("part ")
    folder = tmp_path / "out.npy.parts"
    parts = len(list(folder.glob("part-*.npy")))
    assert there <= parts < 25
    out, _ = start(source, tmp_path / "out.npy").communicate()
    assert out.splitlines()[-1] == f"resumed {parts * PART} embedded {200 - parts * PART}"
    assert not folder.exists()


class Killed(BaseException):
    """Simulates the end of the process. The package never catches it."""


class Disk:
    """Allows a number of disk operations, then raises ``Killed``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10_000
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir"), (np, "save")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*arguments, **options)

        return step


@pytest.mark.parametrize("suffix", ["jsonl", "npy"])
def test_a_kill_at_any_disk_operation_loses_nothing(
    suffix: str, tmp_path: Path, engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", 20)
    target, folder = tmp_path / f"out.{suffix}", tmp_path / f"out.{suffix}.parts"
    embed_file(source, target, model=engine, part_rows=PART)
    whole = target.read_bytes()
    disk = Disk(monkeypatch)
    for steps in range(100):
        os.remove(target)  # noqa: PTH107 - pathlib's would be counted
        disk.left = steps
        try:
            embed_file(source, target, model=engine, part_rows=PART)
            break
        except Killed:
            disk.left = 10_000
        finished = target.exists()
        assert not finished or target.read_bytes() == whole
        try:
            assert embed_file(source, target, model=engine, part_rows=PART).rows == 20
        except FileExistsError:
            assert finished  # there was nothing left to do
        assert target.read_bytes() == whole
        assert not folder.exists()
    assert steps > 15
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", target.name]
