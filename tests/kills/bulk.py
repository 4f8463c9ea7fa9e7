"""Kill bulk jobs at random moments, continue them, and compare their output with that of a job that ran undisturbed.

Usage: ``python -m tests.kills.bulk --kills 40``
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import embed_file
from mlx_qwen_embeddings.bulk.file import FileJob

PART, ROWS = 8, 200


def write_rows(path: Path, count: int = ROWS) -> Path:
    """Write a source. A number such as 1.50 changes its text when it is parsed and written again."""
    lines = [f'{{"id": {n}, "text": "Passage {n}{" and so on" * (n % 5)}", "weight": 1.50}}\n' for n in range(count)]
    path.write_text("".join(lines), "utf-8")
    return path


def read(target: Path) -> tuple[list[dict[str, Any]], Any]:
    """Return the rows and vectors of a job's output."""
    rows = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    return rows, np.array([row.pop("embedding") for row in rows])


def start(source: Path, target: Path) -> "subprocess.Popen[str]":
    """Start or continue a job in another process, which prints a line when it has written a part."""
    command = [sys.executable, "-m", "tests.kills.bulk", str(source), str(target), str(PART)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_until_done(source: Path, target: Path, chance: random.Random, *, most: int) -> tuple[int, int]:
    """Kill a job and start it again until the output exists. Return the number of kills, and of parts written."""
    kills = written = 0
    while not target.exists():
        assert kills < most, "the job makes no progress"
        job = start(source, target)
        assert job.stdout is not None
        # After some parts and a fraction of the next, so that the kill comes at any point of the work.
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
    return kills, written


def compare(target: Path, whole: Path) -> None:
    """Check that the output has the rows of the undisturbed job, each once, and its vectors within 1e-6."""
    (rows, vectors), (wanted_rows, wanted) = read(target), read(whole)
    assert rows == wanted_rows
    assert [row["id"] for row in rows] == list(range(ROWS))
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-6)


def loop(folder: Path, kills: int, *, seed: int = 0) -> tuple[int, int]:
    """Kill jobs this many times. Return the number of kills and of jobs."""
    source, whole = write_rows(folder / "in.jsonl"), folder / "whole.jsonl"
    embed_file(source, whole, model="nano", part_rows=PART, dimensions=64)
    chance, done, jobs = random.Random(seed), 0, 0
    while done < kills:
        target = folder / f"out-{jobs}.jsonl"
        done += kill_until_done(source, target, chance, most=60)[0]
        compare(target, whole)
        jobs += 1
    return done, jobs


def embed_and_tell(source: str, target: str, part_rows: int) -> None:
    """Embed a file, and print the number of each part when it is written."""
    write = FileJob.write

    def write_and_tell(job: FileJob, number: int, vectors: Any) -> None:
        write(job, number, vectors)
        sys.stdout.write(f"part {number}\n")
        sys.stdout.flush()

    # Without a cache, every text that is embedded is also computed.
    with patch.object(FileJob, "write", write_and_tell), EmbeddingEngine("nano", cache_bytes=0) as engine:
        report = embed_file(source, target, model=engine, part_rows=part_rows, dimensions=64)
        sys.stdout.write(f"resumed {report.resumed} embedded {engine.stats().texts}\n")


if __name__ == "__main__":
    if sys.argv[1].startswith("-"):
        parser = argparse.ArgumentParser(description="Kill bulk jobs, continue them, and check their output.")
        parser.add_argument("--kills", type=int, default=40)
        with tempfile.TemporaryDirectory() as place:
            killed, ended = loop(Path(place), parser.parse_args().kills)
        sys.stdout.write(f"{killed} kills of {ended} bulk jobs: every row once, every vector right\n")
    else:
        embed_and_tell(sys.argv[1], sys.argv[2], int(sys.argv[3]))
