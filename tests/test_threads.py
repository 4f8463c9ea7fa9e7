"""Functions on daemon threads: in order on a limited number of them, each with its own result."""

import threading
from concurrent.futures import wait

import pytest

from mlx_qwen_embeddings._threads import DaemonPool, run_in_thread
from tests.support.fake_encoder import PATIENCE


def fail() -> None:
    raise ValueError("no room")


def refuse(_: threading.Thread) -> None:
    """Stand in for ``Thread.start`` where the system has no thread left."""
    raise RuntimeError("can't start new thread")


def test_a_pool_runs_functions_in_order_on_a_limited_number_of_threads_that_end() -> None:
    pool, go, ran = DaemonPool("test", 2), threading.Event(), list[int]()
    threads: set[threading.Thread] = set()
    both = threading.Barrier(3)

    def hold() -> None:
        threads.add(threading.current_thread())
        both.wait(PATIENCE)
        assert go.wait(PATIENCE)

    def note(number: int) -> None:
        threads.add(threading.current_thread())
        ran.append(number)

    held = [pool.submit(hold) for _ in range(2)]
    both.wait(PATIENCE)
    first, second = pool.submit(lambda: note(1)), pool.submit(lambda: note(2))
    assert second.cancel()
    go.set()
    assert not wait([*held, first], PATIENCE).not_done
    assert ran == [1]
    for thread in threads:
        thread.join(PATIENCE)
        assert (thread.is_alive(), thread.daemon) == (False, True)
    assert len(threads) == 2
    assert pool.submit(lambda: note(3)).result(PATIENCE) is None
    assert ran == [1, 3]


def test_an_error_in_a_pool_belongs_to_its_call() -> None:
    pool = DaemonPool("test", 1)
    failing, other = pool.submit(fail), pool.submit(lambda: 7)
    with pytest.raises(ValueError, match="no room"):
        failing.result(PATIENCE)
    assert other.result(PATIENCE) == 7


def test_without_a_thread_a_pool_raises_unless_one_will_become_free(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, go = DaemonPool("test", 2), threading.Event()
    held = pool.submit(lambda: go.wait(PATIENCE))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        waiting = pool.submit(lambda: 7)
        go.set()
        assert (held.result(PATIENCE), waiting.result(PATIENCE)) == (True, 7)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            DaemonPool("test", 2).submit(fail)


def test_a_thread_of_its_own_is_a_daemon_and_its_future_cannot_be_cancelled() -> None:
    go = threading.Event()

    def work() -> bool:
        assert go.wait(PATIENCE)
        return threading.current_thread().daemon

    future = run_in_thread(work, "test")
    assert not future.cancel()
    go.set()
    assert future.result(PATIENCE)
    with pytest.raises(ValueError, match="no room"):
        run_in_thread(fail, "test").result(PATIENCE)
