"""Measure several peers, each in its own process, in turn, so that noise on the machine affects all equally."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

Order = Mapping[str, Any]


class Child:
    """A process that runs one peer."""

    def __init__(self, peer: str, model: str) -> None:
        """Start the process and wait until its model is loaded."""
        self._command = [sys.executable, "-m", "benchmarks.child", peer, model]
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.load_seconds = self._answer()["load_seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            message = f"{self._command} ended with status {self._process.wait()}"
            raise RuntimeError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, order: Order) -> dict[str, Any]:
        """Send an order, and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


def compare(
    peers: Mapping[str, tuple[Child, Order]], rounds: int, scratch: Path, log: str, *, alike: bool = True
) -> dict[str, Any]:
    """Ask every peer once per round. Return seconds, their median, and the distance of the vectors to the first peer's.

    Args:
        peers: Process and order by name. The others are compared with the first.
        rounds: Number of rounds. A short order warms each peer up first.
        scratch: Folder for vectors.
        log: Name to print.
        alike: Whether all have the same model, so that their vectors can be compared.
    """
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    vectors: dict[str, Any] = {}
    texts = 0
    for child, order in peers.values():
        child.ask(dict(order) | {"slice": (4,), "how": "all"})
    for turn in range(rounds):
        for place, (name, (child, order)) in enumerate(peers.items()):
            file = scratch / f"{place}.npy"
            answer = child.ask(dict(order) | ({"save": str(file)} if turn == 0 else {}))
            seconds[name].append(answer["seconds"])
            texts = answer["texts"]
            if turn == 0:
                vectors[name] = np.load(file)
            print(f"{log}: {name} {answer['seconds']:.2f} s", file=sys.stderr, flush=True)
    ours, own = next(iter(vectors.values())), next(iter(seconds.values()))
    found = {
        name: {
            "seconds": times,
            "median": statistics.median(times),
            "texts": texts,
            "ratio": statistics.median([other / mine for other, mine in zip(times, own, strict=True)]),
            "worst_cosine": _worst(ours, vectors[name]) if alike else None,
        }
        for name, times in seconds.items()
    }
    for name, got in list(found.items())[1:]:
        print(f"{log}: {next(iter(found))} is {got['ratio']:.2f} times as fast as {name}", file=sys.stderr, flush=True)
    return found


def _worst(ours: Any, theirs: Any) -> float | None:
    if ours.shape != theirs.shape:
        return None
    return float((ours * theirs).sum(axis=1).min())
