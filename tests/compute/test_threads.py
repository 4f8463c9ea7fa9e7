"""Threads that are reused, and the lanes that run on them."""

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest

from mlx_qwen_embeddings.compute.mlx import threads
from mlx_qwen_embeddings.compute.mlx.backend import Backend, choose_backend
from mlx_qwen_embeddings.compute.mlx.lanes import Lanes

PATIENCE = 20.0


def run(task: Callable[[], None]) -> None:
    running = threads.start(task, "test")
    running.join(PATIENCE)
    assert running.ended.is_set()


def test_a_thread_that_finished_its_task_is_reused() -> None:
    seen: list[threading.Thread] = []
    for _ in range(5):
        run(lambda: seen.append(threading.current_thread()))
    assert len(set(seen)) == 1
    assert seen[0].is_alive()


def test_concurrent_tasks_have_a_thread_each() -> None:
    together = threading.Barrier(3)

    def meet() -> None:
        together.wait(PATIENCE)

    running = [threads.start(meet, "test") for _ in range(2)]
    together.wait(PATIENCE)
    for task in running:
        task.join(PATIENCE)
        assert task.ended.is_set()


def test_a_task_does_not_wait_for_itself() -> None:
    running: list[threads.Running] = []
    begun = threading.Event()

    def task() -> None:
        begun.wait(PATIENCE)
        running[0].join()

    running.append(threads.start(task, "test"))
    begun.set()
    running[0].join(PATIENCE)
    assert running[0].ended.is_set()


def test_a_finished_task_is_freed() -> None:
    import weakref

    class Model:
        pass

    model = Model()
    reference = weakref.ref(model)

    def task(held: Model) -> None:
        assert isinstance(held, Model)

    tasks = [partial(task, model)]
    run(tasks.pop())
    del model
    run(lambda: None)  # by now the thread has dropped the first task
    assert reference() is None


def test_a_thousand_tasks_leave_no_threads_behind() -> None:
    run(lambda: None)
    before = threading.active_count()
    for _ in range(1000):
        run(lambda: None)
    assert threading.active_count() == before


def test_the_interpreter_exits_cleanly_after_threads_computed() -> None:
    code = """
from mlx_qwen_embeddings.compute.mlx import threads
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
choose_backend()
import mlx.core as mx
def work():
    mx.eval(mx.ones((64, 64)) @ mx.ones((64, 64)))
running = [threads.start(work, "test") for _ in range(3)]
for one in running:
    one.join(20)
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


CPU = choose_backend("cpu")


def test_lanes_run_side_by_side_and_keep_the_order() -> None:
    together = threading.Barrier(3)

    def job(number: int) -> int:
        if number < 3:
            together.wait(PATIENCE)
        return number

    lanes: Lanes[int] = Lanes(CPU, 3)
    assert lanes.run([partial(job, number) for number in range(8)]) == list(range(8))


def test_one_lane_is_the_calling_thread() -> None:
    for backend, number in ((CPU, 1), (Backend("gpu", "bfloat16"), 4), (Backend("cpu", "float32"), 4)):
        lanes: Lanes[threading.Thread] = Lanes(backend, number)
        assert lanes.run([threading.current_thread] * 3) == [threading.current_thread()] * 3


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_a_failing_job_stops_the_others_and_the_lanes_can_be_used_again(guilty: int) -> None:
    together = threading.Barrier(3)

    def job(number: int) -> int:
        together.wait(PATIENCE)
        if number == guilty:
            message = "out of memory"
            raise MemoryError(message)
        return number

    lanes: Lanes[int] = Lanes(CPU, 3)
    with pytest.raises(MemoryError, match="out of memory"):
        lanes.run([partial(job, number) for number in range(3)])
    assert lanes.run([lambda: 5]) == [5]


def test_a_task_that_raises_is_logged_and_its_thread_is_reused(caplog: pytest.LogCaptureFixture) -> None:
    def task() -> None:
        message = "not caught"
        raise RuntimeError(message)

    run(task)
    assert ["a thread's task failed" in record.getMessage() for record in caplog.records] == [True]
    run(lambda: None)


def test_without_another_thread_one_lane_does_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task: Callable[[], None], name: str) -> threads.Running:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threads, "start", refuse)
    lanes: Lanes[threading.Thread] = Lanes(CPU, 3)
    assert lanes.run([threading.current_thread] * 4) == [threading.current_thread()] * 4
