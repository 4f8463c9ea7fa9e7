"""Run a short soak, and check that the soak notices every kind of failure."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings.errors import EmbeddingFailedError, EmbeddingTimeoutError, EngineBusyError, EngineClosedError
from soak.judge import judge
from soak.ledger import Ledger
from soak.report import as_result, as_table, faults
from soak.texts import Request
from soak.watch import Watch

PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 5


@pytest.mark.timeout(400)
@pytest.mark.heavy
def test_a_short_soak_succeeds(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    command = [sys.executable, "-m", "soak", "--seconds", str(SECONDS), "--output", str(output)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert (found["threads"], found["loops"], found["wrong"], found["lost"]) == (64, 8, 0, 0)
    assert found["right"] >= 64
    assert found["process_threads"]["end"] < 64  # the clients' threads have ended
    assert "| **lost** | **0** |" in done.stdout


REQUEST = Request(["a", "b"], np.eye(2, dtype=np.float32), query=False, options={})
GUILTY = Request(["a", "b"], np.eye(2, dtype=np.float32), query=False, options={}, guilty={1})
HASTY = Request(["a", "b"], np.eye(2, dtype=np.float32), query=False, options={"timeout": 1, "wait": False})
WRONG = [
    (REQUEST, np.eye(2, dtype=np.float32)[::-1]),
    (REQUEST, np.eye(2, dtype=np.float32)[:1]),
    (REQUEST, np.full((2, 2), np.nan, np.float32)),
    (REQUEST, EmbeddingTimeoutError("none was set")),
    (REQUEST, EngineBusyError("it should have waited")),
    (REQUEST, EngineClosedError("it is open")),
    (REQUEST, EmbeddingFailedError("nothing is wrong with it", {0: ValueError()})),
    (GUILTY, np.eye(2, dtype=np.float32)),
    (GUILTY, EmbeddingFailedError("the other one", {0: ValueError()})),
    (REQUEST, RuntimeError("of any other kind")),
]


@pytest.mark.parametrize(("request_", "found"), WRONG)
def test_wrong_results_are_counted_as_wrong(request_: Request, found: object) -> None:
    ledger = Ledger()
    with ledger.request("a call") as call:
        judge(call, request_, found)  # type: ignore[arg-type]
    assert ledger.verdicts == {"wrong": 1}
    assert ledger.complaints[0].startswith("wrong: a call: ")


def test_right_results_and_expected_failures_are_not_wrong() -> None:
    ledger = Ledger()
    fine = [(REQUEST, np.eye(2, dtype=np.float32)), (GUILTY, EmbeddingFailedError("", {1: ValueError()}))]
    fine += [(HASTY, EmbeddingTimeoutError("")), (HASTY, EngineBusyError(""))]
    for request, found in fine:
        with ledger.request("a call") as call:
            judge(call, request, found)  # type: ignore[arg-type]
    assert ledger.verdicts == {"right": 1, "failed": 3}


def test_an_exception_or_a_missing_verdict_is_wrong() -> None:
    ledger = Ledger()
    with ledger.request("raises"):
        raise KeyError
    with ledger.request("says nothing"):
        pass
    assert ledger.verdicts == {"wrong": 2}


def test_a_request_that_has_not_returned_is_lost() -> None:
    ledger, begun, end = Ledger(), threading.Event(), threading.Event()

    def hang() -> None:
        with ledger.request("hangs") as call:
            begun.set()
            end.wait(20)
            call.right()

    thread = threading.Thread(target=hang)
    thread.start()
    assert begun.wait(20)
    ledger.give_up()
    assert ledger.verdicts == {"lost": 1}
    assert "lost: hangs" in ledger.complaints[0]
    end.set()
    thread.join(20)
    result = as_result(ledger, Watch([], 1), seconds=1, threads=1, loops=1)
    assert "| **lost** | **1** |" in as_table(result)


WELL: dict[str, Any] = {
    "seconds": 600.0,
    "wrong": 0,
    "lost": 0,
    "events": {"forked children": 20},
    "process_threads": {"start": 3, "peak": 150, "end": 15},
    "right_by": dict.fromkeys(
        ("thread", "loop", "forked child", "spawned child", "an engine that is closed", "the cache after a kill"), 9
    ),
    "memory_mib": {"quarter": 600, "end": 700},
}


def test_a_good_run_has_no_fault() -> None:
    assert faults(WELL, []) == []
    assert faults(WELL, ["a thread of x did not end"]) == ["a thread of x did not end"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wrong": 1}, "1 wrong"),
        ({"lost": 2}, "2 lost"),
        ({"events": {"children that did not end well": 1}}, "1 children"),
        ({"process_threads": {"end": 100}}, "100 threads"),
        ({"right_by": WELL["right_by"] | {"forked child": 0}}, "no forked child was right"),
        ({"memory_mib": {"quarter": 600, "end": 1100}}, "memory grew from 600 to 1100 MiB"),
    ],
)
def test_each_fault_of_a_run_is_reported(change: dict[str, object], said: str) -> None:
    found = faults(WELL | change, [])
    assert len(found) == 1
    assert found[0].startswith(said)
