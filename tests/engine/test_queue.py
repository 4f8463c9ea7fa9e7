"""The choice of the next batch, on random requests."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_qwen_embeddings.engine.queue import Batch, Request, next_batch, take
from mlx_qwen_embeddings.options import Pooling


def request(lengths: Sequence[int], pooling: Pooling = "last") -> Request:
    return Request([np.ones(length, np.int32) for length in lengths], pooling, lambda rows, vectors: None)


REQUESTS = st.lists(
    st.builds(request, st.lists(st.integers(1, 200), min_size=1, max_size=30), st.sampled_from(["last", "mean"])),
    min_size=1,
    max_size=8,
)


def lengths_of(batch: Batch) -> list[int]:
    return [len(request.rows[row]) for request, row in batch]


def run(requests: list[Request], budget: int) -> list[Batch]:
    """Take batches as the worker does, until nothing is left."""
    waiting, batches = list(requests), list[Batch]()
    while waiting:
        batch = next_batch(waiting, budget)
        take(batch)
        batches.append(batch)
        served = {request for request, _ in batch}
        waiting = sorted((request for request in waiting if request.waiting), key=lambda request: request in served)
    return batches


def test_a_request_starts_sorted() -> None:
    one = request([5, 1, 3])
    assert (one.waiting, one.tokens) == ([0, 2, 1], 9)


@given(REQUESTS, st.integers(1, 500))
def test_every_row_is_run_once(requests: list[Request], budget: int) -> None:
    rows = [(id(request), row) for batch in run(requests, budget) for request, row in batch]
    assert sorted(rows) == sorted((id(request), row) for request in requests for row in range(len(request.rows)))


@given(REQUESTS, st.integers(1, 500))
def test_a_batch_is_of_one_pooling_and_within_the_budget(requests: list[Request], budget: int) -> None:
    for batch in run(requests, budget):
        lengths = lengths_of(batch)
        assert len({request.pooling for request, _ in batch}) == 1
        assert len(batch) == 1 or len(batch) * max(lengths) <= budget


@given(REQUESTS, st.integers(1, 500))
def test_the_first_request_is_always_served(requests: list[Request], budget: int) -> None:
    first = requests[0]
    shortest = first.waiting[-1]
    assert (first, shortest) in next_batch(requests, budget)


@given(REQUESTS, st.integers(1, 500))
def test_no_request_waits_longer_than_a_round(requests: list[Request], budget: int) -> None:
    batches = run(requests, budget)
    for one in requests:
        turns = [-1, *(number for number, batch in enumerate(batches) if any(request is one for request, _ in batch))]
        assert max(later - earlier for earlier, later in pairwise(turns)) <= len(requests)


def test_what_small_requests_leave_over_goes_to_the_long_one() -> None:
    small, long = request([10]), request([10] * 1000)
    batch = next_batch([small, long], 500)
    assert len(batch) == 50
    assert sum(one is long for one, _ in batch) == 49


def test_two_long_requests_share_equally() -> None:
    one, other = request([10] * 1000), request([10] * 1000)
    batch = next_batch([one, other], 500)
    assert [sum(request is which for request, _ in batch) for which in (one, other)] == [25, 25]


def test_a_request_of_another_pooling_takes_no_share() -> None:
    one, other = request([10] * 1000), request([10] * 1000, "mean")
    batch = next_batch([one, other], 500)
    assert [sum(request is which for request, _ in batch) for which in (one, other)] == [50, 0]


def test_a_batch_is_of_one_prompt() -> None:
    prompts = [np.array([1, 2], np.int32), np.array([1, 2], np.int32), np.array([1, 3], np.int32), None]
    rows = [np.ones(10, np.int32)]
    asked = [Request(rows, "last", lambda rows, vectors: None, prompt) for prompt in prompts]
    assert [len(batch) for batch in run(asked, 500)] == [2, 1, 1]


def test_a_shared_prompt_takes_little_of_the_budget() -> None:
    prompt = np.arange(16, dtype=np.int32)
    rows = [np.append(prompt, np.full(10, 7, np.int32)) for _ in range(100)]
    kept, whole = (Request(rows, pooling, lambda rows, vectors: None, prompt) for pooling in ("last", "mean"))
    assert len(next_batch([kept], 240)) == 20  # 10 tokens of its own and an eighth of 16
    assert len(next_batch([whole], 260)) == 10  # pooled over all tokens, so all are computed
