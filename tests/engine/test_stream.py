"""``stream_documents``: any number of texts in bounded memory, in order, and nothing left in the queue when abandoned."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.errors import EmbeddingTimeoutError, InputTooLongError
from tests.support.fake_encoder import PATIENCE, WatchedEncoder, wait_for_requests

TEXTS = [f"Passage {number}{' and so on' * (number % 5)}" for number in range(11)]

Vectors = NDArray[np.float32]


class Source:
    """Endless texts that count how many of them were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[str]:
        for number in count():
            self.read += 1
            yield f"text {number}"


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddingEngine]:
    # Without a cache every call computes.
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


@pytest.fixture
def fresh() -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


def assert_nothing_waits(engine: EmbeddingEngine) -> None:
    assert engine.stats().queued_requests == 0


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3", None])
def test_a_block_has_a_whole_number_of_texts(size: Any, fresh: EmbeddingEngine) -> None:
    with pytest.raises(ValueError, match="block_size must be a whole number from 1, got"):
        fresh.stream_documents(TEXTS, block_size=size)


def test_a_block_size_may_be_a_numpy_integer(engine: EmbeddingEngine) -> None:
    int_like: Any = np.int64(6)
    assert [len(block) for block in engine.stream_documents(TEXTS, block_size=int_like)] == [6, 5]


@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_blocks_come_in_order(size: int, engine: EmbeddingEngine) -> None:
    blocks = list(engine.stream_documents(iter(TEXTS), block_size=size, dimensions=64))
    assert [len(block) for block in blocks] == [min(size, len(TEXTS) - start) for start in range(0, len(TEXTS), size)]
    wanted = engine.embed_documents(TEXTS, dimensions=64)
    np.testing.assert_allclose(np.concatenate(blocks), wanted, rtol=0, atol=1e-5)
    assert_nothing_waits(engine)


@pytest.mark.parametrize(("source", "shown"), [(list, "11/11"), (iter, "11text")], ids=["list", "iterator"])
def test_progress_is_one_bar_over_all_blocks(
    source: Callable[[list[str]], Iterable[str]], shown: str, engine: EmbeddingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(engine.stream_documents(source(TEXTS), block_size=4, show_progress=True))) == 3
    bar = capsys.readouterr().err
    assert bar.count("\n") == 1
    assert shown in bar


def test_without_texts_there_is_no_block(engine: EmbeddingEngine) -> None:
    assert list(engine.stream_documents([])) == []


def test_two_blocks_are_read_ahead_and_no_more(engine: EmbeddingEngine) -> None:
    source = Source()
    stream = engine.stream_documents(source, block_size=5)
    assert source.read == 0
    for taken in range(1, 6):
        next(stream)
        assert source.read == 5 * (taken + 2)
    stream.close()
    assert source.read == 35
    assert_nothing_waits(engine)


def test_the_next_block_is_computed_while_one_is_used(fresh: EmbeddingEngine) -> None:
    encoder = WatchedEncoder(fresh)
    stream = fresh.stream_documents(Source(), block_size=5)
    next(stream)
    wait_for_requests(fresh, 0)
    assert sum(map(len, encoder.batches)) == 15
    stream.close()


def test_an_abandoned_stream_takes_its_texts_out_of_the_queue() -> None:
    with EmbeddingEngine("nano", cache_bytes=0, batch_tokens=16) as engine, ThreadPoolExecutor(1) as pool:
        encoder = WatchedEncoder(engine)

        def source() -> Iterator[str]:
            yield from ("one", "two", "three")
            encoder.begun()
            yield from Source()

        stream = engine.stream_documents(source(), block_size=3)
        with encoder.held():
            first = pool.submit(next, stream)
            wait_for_requests(engine, 3)
            encoder.step()  # ends the first block, begins parts of the next two
            assert first.result(PATIENCE).shape == (3, 384)
            stream.close()
            assert_nothing_waits(engine)
        assert engine.embed_query("next").shape == (384,)
    assert list(map(len, encoder.batches)) == [3, 5, 1], "one text of the two blocks was never computed"


@pytest.mark.parametrize(
    ("bad", "options", "error", "message"),
    [
        (7, {}, TypeError, r"texts\[6\] must be a string, got int 7"),
        ("long " * 9, {"max_length": 8, "truncate": "error"}, InputTooLongError, r"texts\[6\] has \d+ tokens"),
    ],
)
def test_an_error_names_the_position_in_the_stream_and_is_raised_in_its_turn(
    bad: object, options: dict[str, object], error: type[Exception], message: str, engine: EmbeddingEngine
) -> None:
    texts = [*(f"{number}" for number in range(6)), bad, *TEXTS]
    stream = engine.stream_documents(texts, block_size=3, **options)  # type: ignore[arg-type]
    assert len(next(stream)) == len(next(stream)) == 3
    with pytest.raises(error, match=message):
        next(stream)
    assert list(stream) == []
    assert_nothing_waits(engine)


def test_an_error_of_the_source_is_raised(engine: EmbeddingEngine) -> None:
    def source() -> Iterator[str]:
        yield from TEXTS
        message = "the disk is gone"
        raise OSError(message)

    with pytest.raises(OSError, match="the disk is gone"):
        list(engine.stream_documents(source(), block_size=3))
    assert_nothing_waits(engine)


def test_bad_options_are_refused_before_anything_is_read(engine: EmbeddingEngine) -> None:
    source = Source()
    for options in ({"block_size": 0}, {"pooling": "cls"}, {"timeout": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            engine.stream_documents(source, **options)
    with pytest.raises(TypeError, match=r"write \[text\]"):
        engine.stream_documents("a bare string")
    assert source.read == 0


def test_the_timeout_applies_to_a_block(fresh: EmbeddingEngine) -> None:
    encoder = WatchedEncoder(fresh)
    with ThreadPoolExecutor(1) as pool, encoder.held():
        pool.submit(fresh.embed_query, "holds back the next batch")
        encoder.begun()
        with pytest.raises(EmbeddingTimeoutError, match=r"timeout=0\.05 s"):
            next(fresh.stream_documents(TEXTS, block_size=3, timeout=0.05))
        assert fresh.stats().queued_requests == 1
