"""Kill writers of a persistent cache at random moments, and check the file after each kill.

Usage: ``python -m tests.kills.cache --kills 200``
"""

import argparse
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tests.support.cached_vectors import make, row, there

BATCH = 8


def write(path: Path, start: int) -> None:
    """Write batches for ever, and print a line after each commit."""
    with closing(make(path)) as cache:
        while True:
            cache.put_many(row(number) for number in range(start, start + BATCH))
            start += BATCH
            os.write(1, f"{start}\n".encode())


def kill_writers(path: Path, starts: list[int], seconds: float) -> list[range]:
    """Run a writer per start for some seconds, kill all, and return what each had committed."""
    writers = [
        subprocess.Popen([sys.executable, "-m", "tests.kills.cache", str(path), str(start)], stdout=subprocess.PIPE)
        for start in starts
    ]
    committed = []
    for start, writer in zip(starts, writers, strict=True):
        assert writer.stdout is not None
        assert writer.stdout.readline(), "a writer ended by itself"
        committed.append(start)
    time.sleep(seconds)  # the random moment of the kill
    for writer in writers:
        writer.kill()
    said = [writer.communicate()[0].split() for writer in writers]
    return [range(start, int(lines[-1]) if lines else start + BATCH) for start, lines in zip(starts, said, strict=True)]


def examine(path: Path, committed: list[range]) -> int:
    """Return the number of lost entries; raise when one is wrong or the file is broken."""
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        orphans = "SELECT count(*) FROM entries FULL JOIN vectors USING (id) WHERE key IS NULL OR data IS NULL"
        if sqlite3.sqlite_version_info >= (3, 39):
            assert raw.execute(orphans).fetchone() == (0,)
    with closing(make(path)) as cache:
        return sum(len(span) - len(there(cache, span)) for span in committed)


def loop(path: Path, kills: int, *, writers: int = 2, seed: int = 0) -> tuple[int, int]:
    """Repeat the kills, and return how many entries were committed and how many were lost."""
    draw = random.Random(seed)
    committed: list[range] = []
    lost = 0
    for kill in range(kills):
        starts = [(kill * writers + writer) * 10**6 for writer in range(writers)]
        fresh = kill_writers(path, starts, draw.uniform(0, 0.05))
        committed += fresh
        lost += examine(path, fresh)
    return sum(map(len, committed)), lost + examine(path, committed)


if __name__ == "__main__":
    if sys.argv[1].startswith("-"):
        parser = argparse.ArgumentParser(description="Kill writers of a persistent cache at random moments.")
        parser.add_argument("--kills", type=int, default=200)
        kills = parser.parse_args().kills
        with tempfile.TemporaryDirectory() as folder:
            total, lost = loop(Path(folder) / "vectors.sqlite", kills)
        print(f"{kills} kills, {total} entries committed, {lost} lost, 0 wrong")  # noqa: T201 - a program's answer
        sys.exit(lost > 0)
    write(Path(sys.argv[1]), int(sys.argv[2]))
