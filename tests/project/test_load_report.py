"""Test what the benchmark of the server under load counts as a fault, and which requests it counts as lost."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import overload, wrk
from benchmarks.load_faults import faults
from benchmarks.load_report import row, sentences


def case(connections: int, per_second: float, **more: Any) -> dict[str, Any]:
    times = {"p50": 0.1, "p95": 0.2, "p99": 0.3}
    return {"connections": connections, "per_second": per_second, "lost": 0, "refused": 0, "statuses": {}} | times | more


def found() -> dict[str, Any]:
    during = case(256, 900, asked_per_second=1000, served_per_second=200, statuses={"200": 9, "429": 8}, refused=8)
    return {
        "nano": {
            "new texts": [case(1, 50), case(64, 150)],
            "one text, cached": [case(1, 900)],
            "least cosine after": 1.0,
        },
        "overload": {
            "before": case(64, 250),
            "during": during | {"served_within": {"p50": 0.1, "p95": 0.2, "p99": 0.3}},
            "after": case(64, 200),
            "memory": {"before": 2**27, "peak": 2**29, "after": 2**27 + 64 * 2**20},
        },
    }


def test_a_good_result_has_no_fault() -> None:
    assert faults(found()) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("nano", "new texts", 1, "lost"), 1, "nano, new texts, 64 connections: 1 answers were lost"),
        (("nano", "new texts", 0, "overdue"), 2, "nano, new texts, 1 connections: 2 answers were lost"),
        (("nano", "one text, cached", 0, "unaccounted"), 3, "nano, one text, cached, 1 connections: 3 answers were lost"),
        (("nano", "new texts", 0, "refused"), 4, "nano, new texts, 1 connections: 4 were refused without need"),
        (("nano", "new texts", 1, "per_second"), 149, "64 connections have 2.98 times the throughput of one, not 3"),
        (("nano", "least cosine after"), 0.99, "vectors changed: cosine 0.990000"),
        (("overload", "during", "lost"), 5, "overload, 256 connections: 5 answers were lost"),
        (("overload", "during", "statuses"), {"200": 17}, "overload: nothing was refused with 429"),
        (("overload", "during", "asked_per_second"), 998.9, "overload asked for 4.00 times what the server gives, not 4"),
        (("overload", "memory", "peak"), 2**27 + 513 * 2**20, "overload: it took 513 MiB more, of at most 512"),
        (("overload", "memory", "after"), 2**27 + 66 * 2**20, "overload: 66 MiB stayed, of at most 64"),
        (("overload", "after", "per_second"), 199, "after the overload it gave 0.80 of what it gave before"),
    ],
)
def test_each_fault_is_reported(path: tuple[Any, ...], value: object, said: str) -> None:
    spoilt = copy.deepcopy(found())
    place: Any = spoilt
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert faults(spoilt) == [said]


def test_an_unanswered_request_is_lost_even_if_wrk_does_not_report_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrk, "run", lambda *_, **__: case(3, 1.0, requests=2, seconds=20.0))
    lines = [{"status": status, "seconds": seconds} for status, seconds in ((200, 0.1), (499, 1.0), (499, 19.0))]
    logs = iter([[], lines])
    server: Any = SimpleNamespace(url="", lines=lambda: next(logs), wait_until_idle=lambda: None)
    seen = overload.counted(server, 3, 20.0, seed=0)
    assert (seen["overdue"], seen["unaccounted"], seen["asked_per_second"]) == (1, 1, 0.15)
    assert row(seen)[-1] == "2"


def test_disconnects_beyond_the_number_of_connections_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrk, "run", lambda *_, **__: case(3, 1.0, requests=0, seconds=1.0))
    logs = iter([[], [{"status": 499, "seconds": 0.5}] * 5])
    server: Any = SimpleNamespace(url="", lines=lambda: next(logs), wait_until_idle=lambda: None)
    assert overload.counted(server, 3, 1.0, seed=0)["overdue"] == 2


def test_the_readme_compares_in_both_directions() -> None:
    measured = found()
    measured["all-MiniLM"] = {"ours": [case(1, 24), case(16, 60)], "infinity": [case(1, 40), case(16, 30)]}
    said = " ".join(sentences(measured).split())
    assert (
        "Asked for 4.0 times what it gives, the server that takes 64 requests at a time answered 8 of 17 with 429" in said
    )
    assert "0.6 times infinity-emb's requests a second at 1 connection, 2.0 at 16" in said
