"""How texts are ordered, cut into batches and padded."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_qwen_embeddings.compute.batching import cut, length_order, pad, pieces

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@given(LENGTHS)
def test_order_is_by_length_and_stable(lengths: list[int]) -> None:
    assert length_order(lengths).tolist() == sorted(range(len(lengths)), key=lambda position: lengths[position])


@given(LENGTHS, st.integers(1, 1000))
def test_a_cut_covers_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    lengths.sort()
    batches = cut(lengths, budget)
    assert [position for batch in batches for position in batch] == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch[-1]] <= budget
        assert lengths[batch[-1]] <= 1.5 * lengths[batch[0]] + 16


@given(LENGTHS, st.integers(1, 1000))
def test_no_batch_could_take_the_next_text(lengths: list[int], budget: int) -> None:
    lengths.sort()
    batches = cut(lengths, budget)
    for batch, following in itertools.pairwise(batches):
        text = lengths[following[0]]
        assert (len(batch) + 1) * text > budget or text > 1.5 * lengths[batch[0]] + 16


def test_a_cut_by_hand() -> None:
    assert cut([5, 5, 5, 10], 15) == [range(3), range(3, 4)]
    assert cut([5, 5, 5, 10], 40) == [range(4)]
    assert cut([2, 100, 100], 1000) == [range(1), range(1, 3)]
    assert cut([500], 10) == [range(1)]
    assert cut([], 10) == []


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 600))
def test_pieces_cover_everything_once_within_their_limit(lengths: list[int], lanes: int, largest: int) -> None:
    lengths.sort()
    parts = pieces(lengths, lanes, min(50, largest), largest)
    assert [position for part in parts for position in part] == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * lengths[part[-1]] <= largest for part in parts)


def test_pieces_by_hand() -> None:
    assert pieces([10] * 8, 1, 10, 1000) == [range(8)], "one lane needs no second piece"
    assert pieces([10] * 80, 2, 10, 1000) == [range(40), range(40, 80)], "each lane gets half"
    assert pieces([10] * 8, 2, 100, 1000) == [range(8)], "too few tokens to divide"
    assert pieces([10] * 40 + [100] * 4, 2, 10, 1000) == [range(40), range(40, 44)], "a cut that needs no padding"
    assert pieces([500], 2, 10, 100) == [range(1)]


@given(st.lists(st.integers(1, 64), min_size=40, max_size=80))
def test_two_lanes_get_nearly_equal_work(lengths: list[int]) -> None:
    lengths.sort()
    padded = [len(part) * lengths[part[-1]] for part in pieces(lengths, 2, 50, 512)]
    ends = [0, 0]
    for count in sorted(padded, reverse=True):
        ends[ends.index(min(ends))] += count
    assert max(ends) <= 0.7 * sum(lengths) + 64


def test_padding_is_on_the_right() -> None:
    padded, lengths = pad([np.array([1, 2, 3], np.int32), np.array([4], np.int32)], pad_id=9)
    assert padded.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert lengths.tolist() == [3, 1]
    assert padded.dtype == lengths.dtype == np.int32


def test_padding_of_nothing() -> None:
    padded, lengths = pad([])
    assert (padded.shape, lengths.shape) == ((0, 0), (0,))
