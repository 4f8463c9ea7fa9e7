"""The line of calls that wait for room beside an event loop."""

import threading
from concurrent.futures import wait

import pytest

from mlx_qwen_embeddings.engine.drivers import Line
from tests.support.fake_encoder import PATIENCE


def fails() -> None:
    message = "no room"
    raise ValueError(message)


def test_calls_run_in_order_on_at_most_so_many_threads_that_end() -> None:
    line, go, ran = Line(2), threading.Event(), []
    threads: set[threading.Thread] = set()
    both = threading.Barrier(3)

    def hold() -> None:
        threads.add(threading.current_thread())
        both.wait(PATIENCE)
        assert go.wait(PATIENCE)

    def note(number: int) -> None:
        threads.add(threading.current_thread())
        ran.append(number)

    held = [line.submit(hold) for _ in range(2)]
    both.wait(PATIENCE)
    first, second = line.submit(lambda: note(1)), line.submit(lambda: note(2))
    assert second.cancel()
    go.set()
    assert not wait([*held, first], PATIENCE).not_done
    assert ran == [1]
    for thread in threads:
        thread.join(PATIENCE)
        assert (thread.is_alive(), thread.daemon) == (False, True)
    assert len(threads) == 2
    assert line.submit(lambda: note(3)).result(PATIENCE) is None
    assert ran == [1, 3]


def test_an_error_belongs_to_its_call() -> None:
    line = Line(1)
    failing, other = line.submit(fails), line.submit(lambda: None)
    with pytest.raises(ValueError, match="no room"):
        failing.result(PATIENCE)
    assert other.result(PATIENCE) is None


def test_without_a_thread_the_caller_is_told_unless_another_will_come_free(monkeypatch: pytest.MonkeyPatch) -> None:
    line, go = Line(2), threading.Event()
    held = line.submit(lambda: None if go.wait(PATIENCE) else fails())

    def none_left(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        waiting = line.submit(lambda: None)
        go.set()
        assert held.result(PATIENCE) is waiting.result(PATIENCE) is None
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Line(2).submit(lambda: None)
