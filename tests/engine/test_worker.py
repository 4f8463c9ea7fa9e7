"""The worker's thread: batches, fairness, faults, the bounded queue and its end, with an encoder that tests control."""

import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings.compute.mlx import threads
from mlx_qwen_embeddings.engine import batch as batches
from mlx_qwen_embeddings.engine.queue import Request
from mlx_qwen_embeddings.engine.worker import Worker
from mlx_qwen_embeddings.errors import EngineBusyError, EngineClosedError, ModelLoadError, NonFiniteEmbeddingError
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.stats import StatsCounter
from mlx_qwen_embeddings.tokenization import Ids
from tests.support.fake_encoder import DIES, NAN, PATIENCE, RAISES, Caller, FakeEncoder, make_worker


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def worker(encoder: FakeEncoder) -> Iterator[Worker]:
    worker = make_worker(encoder)
    yield worker
    worker.close()


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Make Python switch threads so often that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(PATIENCE)
    return not thread.is_alive()


# Batches


def test_requests_that_wait_share_a_batch(worker: Worker, encoder: FakeEncoder) -> None:
    with encoder.held():
        first = Caller([(1, 5)]).submit(worker)
        encoder.begun()
        others = [Caller([(number, 5)]).submit(worker) for number in range(2, 10)]
    assert first.right
    assert all(other.right for other in others)
    assert encoder.batches == [[(1, 5)], [(number, 5) for number in range(2, 10)]]


def test_a_lone_request_is_run_at_once(worker: Worker, encoder: FakeEncoder) -> None:
    assert Caller([(1, 5)]).submit(worker).right
    assert Caller([(2, 5)]).submit(worker).right
    assert encoder.batches == [[(1, 5)], [(2, 5)]]


def test_batches_are_of_similar_length_and_within_the_budget_with_padding(worker: Worker, encoder: FakeEncoder) -> None:
    draw = random.Random(0)
    rows = [(number, draw.randint(1, 60)) for number in range(200)] + [(200, 150)]
    assert Caller(rows).submit(worker).right
    for batch in encoder.batches:
        shortest, longest = min(length for _, length in batch), max(length for _, length in batch)
        assert len(batch) * longest <= 100 or len(batch) == 1
        assert longest <= 1.5 * shortest + 16
    assert [(200, 150)] in encoder.batches
    assert len(encoder.batches) < 201 / 2


def test_poolings_never_share_a_batch(worker: Worker, encoder: FakeEncoder) -> None:
    with encoder.held():
        Caller([(0, 5)]).submit(worker)
        encoder.begun()
        callers = [
            Caller([(1, 5), (2, 5)], "last").submit(worker),
            Caller([(3, 5), (4, 5)], "mean").submit(worker),
            Caller([(5, 5)], "last").submit(worker),
        ]
    assert all(caller.right for caller in callers)
    assert sorted(zip(encoder.poolings, map(sorted, encoder.batches), strict=True))[1:] == [
        ("last", [(1, 5), (2, 5), (5, 5)]),
        ("mean", [(3, 5), (4, 5)]),
    ]


def test_all_work_happens_on_the_workers_thread(worker: Worker, encoder: FakeEncoder) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda number: Caller([(number, 3)]).submit(worker).right, range(64)))
    assert [thread.name for thread in encoder.threads] == ["mlx-qwen-worker"]


def test_the_same_row_of_two_callers_reaches_both(worker: Worker, encoder: FakeEncoder) -> None:
    with encoder.held():
        Caller([(0, 5)]).submit(worker)
        encoder.begun()
        twins = [Caller([(7, 5), (8, 6)]).submit(worker) for _ in range(2)]
    assert all(twin.right for twin in twins)


# Fairness


@pytest.mark.parametrize("length", [10, 90], ids=["as long as the job's", "longer than the job's"])
def test_a_job_of_100_000_rows_holds_a_query_back_by_one_batch(encoder: FakeEncoder, length: int) -> None:
    worker = make_worker(encoder, batch_tokens=4000)
    job = Caller([(number, 10) for number in range(100_000)])
    with encoder.held():
        job.submit(worker)
        encoder.begun()
        for query in range(3):
            number = 200_000 + query
            asked = Caller([(number, length)]).submit(worker)
            encoder.step()
            assert (number, length) in encoder.batches[-1]
            encoder.step()
            assert asked.right
        job.request.future.cancel()
    worker.close()


def test_a_stream_of_queries_does_not_starve_a_long_job(worker: Worker, encoder: FakeEncoder) -> None:
    job = Caller([(number, 10) for number in range(300)])
    clients = 3
    with encoder.held():
        job.submit(worker)
        encoder.begun()
        asked = [Caller([(1000 + client, 90)]).submit(worker) for client in range(clients)]
        for _ in range(40):
            encoder.step()
            asked = [
                Caller([(1000 + client, 90)]).submit(worker) if query.request.future.done() else query
                for client, query in enumerate(asked)
            ]
    for_job = [number for number, batch in enumerate(encoder.batches[:41]) if batch[0][0] < 1000]
    assert max(np.diff(for_job)) == clients + 1
    assert job.right


def test_two_long_jobs_take_turns(worker: Worker, encoder: FakeEncoder) -> None:
    with encoder.held():
        Caller([(0, 1)]).submit(worker)
        encoder.begun()
        short = Caller([(1, 10)] * 50).submit(worker)
        long = Caller([(2, 90)] * 50).submit(worker)
    assert short.right
    assert long.right
    jobs = [batch[0][0] for batch in encoder.batches[1:]]
    assert jobs[:6] == [1, 2, 1, 2, 1, 2]


# Faults in a batch


def test_a_failing_row_fails_alone(worker: Worker, encoder: FakeEncoder) -> None:
    with encoder.held():
        Caller([(0, 5)]).submit(worker)
        encoder.begun()
        good = Caller([(1, 5), (2, 5)]).submit(worker)
        bad = Caller([(3, 5), (RAISES, 5), (4, 5)]).submit(worker)
        also_good = Caller([(5, 5)]).submit(worker)
    assert good.right
    assert also_good.right
    assert bad.result() == [(3, 5), None, (4, 5)]
    assert {row: str(error) for row, error in bad.request.failures.items()} == {1: "a batch of 1 with a bad row"}
    assert not good.request.failures


def test_every_failing_row_is_found(worker: Worker) -> None:
    rows = [(RAISES if number % 7 == 0 else number, 5) for number in range(1, 100)]
    caller = Caller(rows).submit(worker)
    assert caller.result() == [None if first == RAISES else (first, 5) for first, _ in rows]
    assert sorted(caller.request.failures) == [row for row, (first, _) in enumerate(rows) if first == RAISES]


def test_a_non_finite_row_fails_alone(worker: Worker) -> None:
    caller = Caller([(1, 5), (NAN, 5), (2, 5)]).submit(worker)
    assert caller.result() == [(1, 5), None, (2, 5)]
    assert isinstance(caller.request.failures[1], NonFiniteEmbeddingError)


def test_a_caller_that_cannot_take_its_vectors_fails_alone(worker: Worker, encoder: FakeEncoder) -> None:
    def refuse(rows: list[int], vectors: object) -> None:
        raise MemoryError

    picky = Request([np.ones(5, dtype=np.int32)] * 2, "last", refuse)
    with encoder.held():
        Caller([(0, 5)]).submit(worker)
        encoder.begun()
        worker.submit(picky)
        other = Caller([(1, 5)]).submit(worker)
    assert other.right
    assert picky.future.result(PATIENCE) is None
    assert [type(error) for error in picky.failures.values()] == [MemoryError, MemoryError]


def test_out_of_memory_halves_all_later_batches_and_warns_once(
    encoder: FakeEncoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = encoder.compute

    def small_memory(rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None) -> NDArray[np.float32]:
        if sum(map(len, rows)) > 30:
            message = "[malloc] Unable to allocate 99 bytes."
            raise RuntimeError(message)
        return compute(rows, pooling, prompt)

    monkeypatch.setattr(encoder, "compute", small_memory)
    worker = make_worker(encoder)
    assert Caller([(number, 10) for number in range(40)]).submit(worker).right
    sizes = [sum(length for _, length in batch) for batch in encoder.batches]
    assert sizes[0] == 100
    assert sizes.count(100) == 1, "no batch after the first is as large"
    assert max(sizes[5:]) <= 30
    assert [record.getMessage()[:52] for record in caplog.records] == [
        "memory ran out in a batch of 100 tokens: batches are"
    ]
    encoder.batches.clear()
    too_large = Caller([(1, 31)]).submit(worker)
    assert too_large.result() == [None], "a text that never fits fails alone"
    assert Caller([(2, 10)]).submit(worker).right
    worker.close()


def test_batches_grow_again_when_memory_allows(
    encoder: FakeEncoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "RECOVERY_BATCHES", 10)
    compute, most = encoder.compute, [30]

    def small_memory(rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None) -> NDArray[np.float32]:
        if sum(map(len, rows)) > most[0]:
            raise MemoryError
        return compute(rows, pooling, prompt)

    monkeypatch.setattr(encoder, "compute", small_memory)
    worker = make_worker(encoder)
    assert Caller([(number, 10) for number in range(200)]).submit(worker).right
    sizes = [sum(length for _, length in batch) for batch in encoder.batches]
    assert 2 <= sum(size > 30 for size in sizes[5:]) <= len(sizes) / 10, "larger batches are tried now and then, and fail"
    most[0] = 1000
    assert Caller([(number, 10) for number in range(200)]).submit(worker).right
    assert sum(length for _, length in encoder.batches[-2]) == 100
    assert len(caplog.records) == 1
    worker.close()


def test_the_counters_add_up(encoder: FakeEncoder) -> None:
    stats = StatsCounter()
    worker = make_worker(encoder, stats=stats)
    Caller([(1, 4), (2, 10), (NAN, 10), (RAISES, 60)]).submit(worker).result()
    worker.close()
    counted = stats.snapshot()
    assert (counted.batches, counted.tokens, counted.padding_tokens) == (1, 24, 6)
    assert counted.failures == {"NonFiniteEmbeddingError": 1, "RuntimeError": 1}
    assert counted.compute_seconds > 0


# A bounded queue


@pytest.fixture
def full(encoder: FakeEncoder) -> Iterator[Worker]:
    """A worker whose queue of 20 tokens is filled by the batch being computed."""
    worker = make_worker(encoder, queue_tokens=20)
    with encoder.held():
        Caller([(0, 20)]).submit(worker)
        encoder.begun()
        yield worker
        worker.close(0)
    worker.close()


def test_a_full_queue_refuses_a_request_that_does_not_wait(full: Worker) -> None:
    with pytest.raises(EngineBusyError, match="20 tokens of at most 20"):
        Caller([(1, 3)]).submit(full, wait=False)
    assert full.queue == (1, 20)


def test_a_request_waits_for_room(full: Worker, encoder: FakeEncoder) -> None:
    caller = Caller([(1, 3)]).submit(full)
    assert not caller.admitted
    assert full.queue == (1, 20)
    encoder.step()
    assert caller.admitted
    assert full.queue == (1, 3)


def test_a_request_larger_than_the_queue_is_served_when_it_is_empty(encoder: FakeEncoder) -> None:
    worker = make_worker(encoder, queue_tokens=20)
    assert Caller([(1, 30), (2, 30)]).submit(worker, wait=False).right
    worker.close()


def test_small_requests_overtake_a_waiting_large_one_within_an_eighth(encoder: FakeEncoder) -> None:
    # Part of a job larger than the queue waits for room at all times: whoever came after that would wait for long.
    worker = make_worker(encoder, batch_tokens=40, queue_tokens=80)
    with encoder.held():
        Caller([(1, 20)] * 4).submit(worker)
        encoder.begun()
        large = Caller([(2, 20)] * 4).submit(worker)
        small = [Caller([(number, 5)]).submit(worker, wait=False) for number in (3, 4)]
        assert worker.queue == (3, 90)
        with pytest.raises(EngineBusyError, match="90 tokens of at most 80"):
            Caller([(5, 5)]).submit(worker, wait=False)
        encoder.step()
        assert encoder.batches[-1] == [(3, 5), (4, 5)]
        encoder.step()
        assert all(one.right for one in small)
        assert worker.queue == (1, 80), "the room for small ones is free again"
        Caller([(6, 5)]).submit(worker, wait=False)
    assert large.right
    worker.close()
    assert worker.queue == (0, 0)


def test_a_request_larger_than_a_batch_does_not_overtake(encoder: FakeEncoder) -> None:
    worker = make_worker(encoder, batch_tokens=8, queue_tokens=80)
    with encoder.held():
        Caller([(1, 20)] * 4).submit(worker)
        encoder.begun()
        with pytest.raises(EngineBusyError):
            Caller([(2, 5)] * 2).submit(worker, wait=False)
        Caller([(3, 10)]).submit(worker, wait=False)  # one text is never more than a batch
        worker.close(0)
    worker.close()


def test_an_endless_flow_of_small_requests_does_not_keep_a_large_one_out(encoder: FakeEncoder) -> None:
    worker = make_worker(encoder, batch_tokens=40, queue_tokens=80)
    with encoder.held():
        Caller([(1, 40)] * 2).submit(worker)
        encoder.begun()
        large = Caller([(2, 40)] * 4).submit(worker)
        asked = Caller([(3, 5)]).submit(worker, wait=False)
        for _ in range(4):
            encoder.step()
            if asked.request.future.done():
                asked = Caller([(3, 5)]).submit(worker, wait=False)
        assert large.admitted, "the queue was never empty, but small ones took none of its room"
    assert large.right
    worker.close()


def test_a_cancelled_request_no_longer_waits_for_room(full: Worker, encoder: FakeEncoder) -> None:
    cancelled, other = Caller([(1, 3)]).submit(full), Caller([(2, 4)]).submit(full)
    cancelled.request.future.cancel()
    encoder.step()
    assert (cancelled.admitted, other.admitted) == (False, True)
    assert full.queue == (1, 4)


def test_cancelling_frees_the_queue_and_saves_the_work(encoder: FakeEncoder) -> None:
    worker = make_worker(encoder)
    with encoder.held():
        Caller([(0, 5)]).submit(worker)
        encoder.begun()
        cancelled, kept = Caller([(1, 5)] * 3).submit(worker), Caller([(2, 5)]).submit(worker)
        assert worker.queue == (3, 25)
        cancelled.request.future.cancel()
        assert worker.queue == (2, 10)
    assert kept.right
    assert encoder.batches == [[(0, 5)], [(2, 5)]]
    worker.close()


def test_cancelling_during_a_batch_leaves_other_requests_right(worker: Worker, encoder: FakeEncoder) -> None:
    with encoder.held():
        Caller([(0, 5)]).submit(worker)
        encoder.begun()
        gone = Caller([(1, 5), (2, 90)]).submit(worker)
        kept = Caller([(3, 5)]).submit(worker)
        encoder.step()
        assert encoder.batches[-1] == [(1, 5), (3, 5)]
        gone.request.future.cancel()
    assert kept.right
    assert Caller([(4, 5)]).submit(worker).right
    assert (2, 90) not in [row for batch in encoder.batches for row in batch]
    assert worker.queue == (0, 0)


def test_a_request_just_being_cancelled_does_not_end_the_thread(worker: Worker, encoder: FakeEncoder) -> None:
    cancelled, go_on = threading.Event(), threading.Event()

    def linger(_: object) -> None:
        cancelled.set()
        assert go_on.wait(PATIENCE)

    gone = Caller([(1, 5)])
    gone.request.future.add_done_callback(linger)  # before the worker's own
    with encoder.held():
        gone.submit(worker)
        encoder.begun()
        kept = Caller([(2, 5)]).submit(worker)
        cancelling = in_thread(gone.request.future.cancel)
        assert cancelled.wait(PATIENCE)
    assert kept.right
    assert Caller([(3, 5)]).submit(worker).right
    assert len(encoder.threads) == 1
    go_on.set()
    assert ended(cancelling)
    assert worker.queue == (0, 0)


def test_a_request_cancelled_before_submit_is_not_queued(worker: Worker, encoder: FakeEncoder) -> None:
    caller = Caller([(1, 5)])
    caller.request.future.cancel()
    caller.submit(worker)
    assert worker.queue == (0, 0)
    assert Caller([(2, 5)]).submit(worker).right
    assert encoder.batches == [[(2, 5)]]


# The end of the thread


def test_when_the_thread_dies_every_request_fails_and_the_next_one_works(worker: Worker, encoder: FakeEncoder) -> None:
    with encoder.held():
        guilty = Caller([(DIES, 5)]).submit(worker)
        encoder.begun()
        waiting = [Caller([(number, 5)]).submit(worker) for number in range(5)]
    for caller in (guilty, *waiting):
        error = caller.error()
        assert isinstance(error, EngineClosedError)
        assert "died of SystemExit" in str(error)
        assert isinstance(error.__cause__, SystemExit)
    assert encoder.released_by in encoder.threads
    assert Caller([(1, 5)]).submit(worker).right


def test_a_model_that_cannot_be_released_leaves_nobody_waiting(worker: Worker, encoder: FakeEncoder) -> None:
    def fail() -> None:
        message = "no stream"
        raise RuntimeError(message)

    encoder.release = fail  # type: ignore[method-assign]
    with encoder.held():
        guilty = Caller([(DIES, 5)]).submit(worker)
        encoder.begun()
        waiting = Caller([(1, 5)]).submit(worker)
    assert isinstance(guilty.error(), RuntimeError)
    assert isinstance(waiting.error(), RuntimeError)
    assert Caller([(2, 5)]).submit(worker).right


def test_a_model_that_cannot_be_opened_fails_its_callers_and_is_tried_again(encoder: FakeEncoder) -> None:
    attempts: list[FakeEncoder | ModelLoadError] = [ModelLoadError("no weights"), encoder]

    def open_encoder() -> FakeEncoder:
        match attempts.pop(0):
            case ModelLoadError() as error:
                raise error
            case opened:
                return opened

    worker = Worker(open_encoder, batch_tokens=100, queue_tokens=100, stats=StatsCounter())
    assert str(Caller([(1, 5)]).submit(worker).error()) == "no weights"
    assert Caller([(2, 5)]).submit(worker).right
    worker.close()


def test_where_no_thread_can_be_started_the_next_call_tries_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(threads, "_idle", [])
        with pytest.raises(RuntimeError, match="can't start"):
            Caller([(1, 5)]).submit(worker)
    assert worker.queue == (0, 0)
    assert Caller([(2, 5)]).submit(worker).right


def test_close_under_load_fails_every_request_and_ends_the_thread(encoder: FakeEncoder) -> None:
    worker = make_worker(encoder, queue_tokens=20)
    with encoder.held():
        in_hand = Caller([(1, 5)]).submit(worker)
        encoder.begun()
        queued = Caller([(2, 5)]).submit(worker)
        refused = Caller([(3, 20)]).submit(worker)
        worker.close(0)
        assert "closed before this call was served" in str(queued.error())
        assert isinstance(in_hand.error(), EngineClosedError)
        assert isinstance(refused.request.admitted.exception(PATIENCE), EngineClosedError)
    worker.close()
    assert encoder.batches == [[(1, 5)]]
    assert encoder.released_by is encoder.threads.pop()
    with pytest.raises(EngineClosedError, match="open a new one"):
        Caller([(4, 5)]).submit(worker)


def test_closing_twice_or_before_the_first_use_is_fine(encoder: FakeEncoder) -> None:
    worker = make_worker(encoder)
    worker.close()
    worker.close()
    assert encoder.released_by is None


def test_memory_is_reported_while_the_model_is_loaded(worker: Worker) -> None:
    assert worker.memory == (0, 0)
    Caller([(1, 5)]).submit(worker).result()
    assert worker.memory == (10, 20)
    worker.close()
    assert worker.memory == (0, 0)


# Races


def settled(caller: Caller, worker: Worker) -> bool:
    """Submit, and return whether the caller got an answer of any kind."""
    try:
        caller.submit(worker)
    except EngineClosedError:
        return True
    error = caller.error()  # raises TimeoutError if none ever comes
    return isinstance(error, EngineClosedError) or (error is None and caller.right)


@pytest.mark.usefixtures("quick_switches")
def test_an_answer_may_come_before_submit_returns(worker: Worker) -> None:
    def ask(start: int) -> bool:
        return all(Caller([(start + number, 1)]).submit(worker).right for number in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(0, 4000, 1000)))


@pytest.mark.usefixtures("quick_switches")
def test_submitting_while_it_closes_leaves_nobody_waiting() -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(100):
            worker = make_worker(FakeEncoder())
            barrier = threading.Barrier(4)

            def ask(number: int, worker: Worker = worker, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait(PATIENCE)
                return all(settled(Caller([(number, 1)]), worker) for _ in range(3))

            asking = [pool.submit(ask, number) for number in range(3)]
            barrier.wait(PATIENCE)
            worker.close()
            assert all(future.result(PATIENCE) for future in asking)


@pytest.mark.usefixtures("quick_switches")
def test_submitting_while_the_thread_dies_leaves_nobody_waiting(worker: Worker) -> None:
    barrier = threading.Barrier(4)

    def ask(number: int) -> bool:
        barrier.wait(PATIENCE)
        return all(settled(Caller([(DIES if number == 0 else number, 1)]), worker) for _ in range(100))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))
    assert Caller([(1, 5)]).submit(worker).right


@pytest.mark.usefixtures("quick_switches")
def test_cancelling_at_any_moment_leaves_the_others_right(worker: Worker) -> None:
    def ask(number: int) -> bool:
        doomed, kept = Caller([(number, 2), (number, 40)]), Caller([(number, 1)])
        doomed.submit(worker)
        kept.submit(worker)
        doomed.request.future.cancel()
        return kept.right

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))
    assert worker.queue == (0, 0)
