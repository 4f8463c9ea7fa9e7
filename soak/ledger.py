"""What became of every request: right, failed as it should, wrong, or lost."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

SHOWN = 20
"""Complaints that are kept in words; the rest is counted."""


class Call:
    """One request; its verdict is given once."""

    def __init__(self, what: str) -> None:
        """Name it: its kind, and for complaints more behind a comma."""
        self.what = what
        self.began = time.monotonic()
        self.verdict: str | None = None
        self.reason = ""

    def right(self) -> None:
        """Every vector was right."""
        self.verdict = "right"

    def failed(self, reason: str) -> None:
        """It failed, as it had to or was allowed to."""
        self.verdict, self.reason = "failed", reason

    def wrong(self, reason: str) -> None:
        """It gave a wrong vector, the wrong error, or none where one was due."""
        self.verdict, self.reason = "wrong", reason


class Ledger:
    """Counts, from any thread."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._lock = threading.Lock()
        self._open: set[Call] = set()
        self.verdicts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.right_by: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.longest = 0.0

    @contextmanager
    def request(self, what: str) -> Iterator[Call]:
        """Make a request in this block. One that ends without a verdict, by an error that nobody expected, is wrong."""
        call = Call(what)
        with self._lock:
            self._open.add(call)
        try:
            yield call
        except Exception as error:  # noqa: BLE001 - it is what the ledger is for
            call.wrong(f"{type(error).__name__}: {error}")
        self._close(call)

    def _close(self, call: Call) -> None:
        verdict = call.verdict or "wrong"
        with self._lock:
            self._open.discard(call)
            self.verdicts[verdict] += 1
            self.longest = max(self.longest, time.monotonic() - call.began)
            if verdict == "right":
                self.right_by[call.what.split(",")[0]] += 1
            if verdict == "failed":
                self.failed[call.reason] += 1
            if verdict == "wrong" and len(self.complaints) < SHOWN:
                self.complaints.append(f"wrong: {call.what}: {call.reason or 'no verdict'}")

    def count(self, event: str, number: int = 1) -> None:
        """Count something that is no request."""
        with self._lock:
            self.events[event] += number

    def give_up(self) -> None:
        """Count what has not come back by now as lost."""
        with self._lock:
            now = time.monotonic()
            for call in self._open:
                self.verdicts["lost"] += 1
                self.complaints.append(f"lost: {call.what}, asked {now - call.began:.0f} s ago")
            self._open.clear()
