"""Keep count of every request: right, failed as it should, wrong, or lost."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

SHOWN = 20
"""Complaints that are kept as text; further ones are only counted."""


class Call:
    """One request and its verdict."""

    def __init__(self, what: str) -> None:
        """Name it: its kind, then after a comma details for complaints."""
        self.what = what
        self.began = time.monotonic()
        self.verdict: str | None = None
        self.reason = ""

    def right(self) -> None:
        """Note that every vector was right."""
        self.verdict = "right"

    def failed(self, reason: str) -> None:
        """Note that it failed as it should, or as it may."""
        self.verdict, self.reason = "failed", reason

    def wrong(self, reason: str) -> None:
        """Note a wrong vector, a wrong error, or a missing error."""
        self.verdict, self.reason = "wrong", reason


class Ledger:
    """Counts of verdicts and events. Safe to use from any thread."""

    def __init__(self) -> None:
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
        """Make a request in this block. Without a verdict, or with an unexpected error, it counts as wrong."""
        call = Call(what)
        with self._lock:
            self._open.add(call)
        try:
            yield call
        except Exception as error:  # noqa: BLE001 - unexpected errors are what the ledger is for
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
        """Count something other than a request."""
        with self._lock:
            self.events[event] += number

    def give_up(self) -> None:
        """Count requests that have not returned by now as lost."""
        with self._lock:
            now = time.monotonic()
            for call in self._open:
                self.verdicts["lost"] += 1
                self.complaints.append(f"lost: {call.what}, made {now - call.began:.0f} s ago")
            self._open.clear()
