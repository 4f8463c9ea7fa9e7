"""Bulk jobs that are killed, at random moments and at every single step, and continued."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import embed_file

PROGRAM = str(Path(__file__).parent / "bulk_kills.py")
PART = 8


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine("nano") as engine:
        yield engine


def write_rows(path: Path, count: int) -> Path:
    # 1.50 is a number whose text a careless copy changes.
    lines = [f'{{"id": {n}, "text": "Passage {n}{" and so on" * (n % 5)}", "weight": 1.50}}\n' for n in range(count)]
    path.write_text("".join(lines), "utf-8")
    return path


def read(target: Path) -> tuple[list[dict[str, Any]], Any]:
    rows = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    return rows, np.array([row.pop("embedding") for row in rows])


def start(source: Path, target: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, PROGRAM, str(source), str(target), str(PART)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_job_that_is_killed_at_random_moments_ends_as_one_that_is_not(tmp_path: Path, engine: EmbeddingEngine) -> None:
    source = write_rows(tmp_path / "in.jsonl", 200)
    target, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    embed_file(source, whole, model=engine, part_rows=PART, dimensions=64)
    chance = random.Random(3)
    written, kills = 0, 0
    while not target.exists():
        assert kills < 60
        job = start(source, target)
        assert job.stdout is not None
        # After some parts, and some of a part's time: the moment is not one that the job chooses.
        for _ in range(chance.randrange(5)):
            written += job.stdout.readline().startswith("part")
        ends = time.perf_counter() + chance.uniform(0, 0.05)
        while time.perf_counter() < ends:
            pass
        job.kill()
        rest, errors = job.communicate()
        written += rest.count("part ")
        assert (job.returncode, errors) in {(-9, ""), (0, "")}
        kills += 1
    assert kills > 4
    # A part may have been written by a run that was killed before it said so, but none was written twice.
    assert written <= 25
    rows, vectors = read(target)
    wanted_rows, wanted = read(whole)
    assert rows == wanted_rows
    assert [row["id"] for row in rows] == list(range(200))
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-6)
    # Killed between the move and the removal, the folder is left, and the next run removes it.
    if (tmp_path / "out.jsonl.parts").exists():
        embed_file(source, target, model=engine, part_rows=PART, dimensions=64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_what_was_done_is_not_computed_again(tmp_path: Path) -> None:
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
    """Stands for the end of the process: nothing of ours catches it."""


class Disk:
    """Lets so many steps on the disk happen, and then ends the process."""

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
def test_a_kill_at_any_step_on_the_disk_loses_nothing(
    suffix: str, tmp_path: Path, engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", 20)
    target, folder = tmp_path / f"out.{suffix}", tmp_path / f"out.{suffix}.parts"
    embed_file(source, target, model=engine, part_rows=PART)
    whole = target.read_bytes()
    disk = Disk(monkeypatch)
    for steps in range(100):
        os.remove(target)  # noqa: PTH107 - pathlib's is counted
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
