"""Texts that fail, calls that time out, an engine closed under load: every caller gets the right error."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.tokenizer import read_tokenizer
from mlx_qwen_embeddings.engine import call as calls
from mlx_qwen_embeddings.errors import (
    EmbeddingFailedError,
    EmbeddingTimeoutError,
    EngineClosedError,
    NonFiniteEmbeddingError,
)
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tokenization import Ids, TextTokenizer
from tests.support.fake_encoder import PATIENCE, WatchedEncoder, wait_for_requests, wait_for_waiting
from tests.support.same_vectors import TEXTS, assert_same

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    with EmbeddingEngine("nano") as engine:
        return engine.embed_documents(TEXTS)


class FaultyEncoder(WatchedEncoder):
    """Raises, or returns NaN, for texts that begin with a certain token."""

    raises: int
    spoils: int

    def compute(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None) -> Vectors:
        firsts = [int(row[0]) for row in rows]
        if self.raises in firsts:
            message = "out of memory"
            raise RuntimeError(message)
        vectors = super().compute(rows, pooling, prompt)
        vectors[[first == self.spoils for first in firsts]] = np.nan
        return vectors


@pytest.fixture
def faulty(fresh: EmbeddingEngine) -> FaultyEncoder:
    encoder = FaultyEncoder(fresh)
    tokens = TextTokenizer(read_tokenizer(NANO_FOLDER / "tokenizer.json")).encode(["storm", "fog"], max_length=9)
    encoder.raises, encoder.spoils = (int(token.ids[0]) for token in tokens)
    return encoder


@pytest.mark.usefixtures("faulty")
def test_failures_name_their_positions_and_leave_the_others_cached(fresh: EmbeddingEngine, vectors: Vectors) -> None:
    texts = [TEXTS[0], "storm warning", TEXTS[1], "fog warning", "storm warning"]
    with pytest.raises(EmbeddingFailedError, match=r"texts\[1\] 'storm warning' could not be .*and 2 more") as caught:
        fresh.embed_documents(texts)
    assert sorted(caught.value.failures) == [1, 3, 4]
    assert isinstance(caught.value.failures[3], NonFiniteEmbeddingError)
    assert str(caught.value.__cause__) == "out of memory"
    before = fresh.stats()
    assert before.failures == {"RuntimeError": 1, "NonFiniteEmbeddingError": 1}
    assert before.cache_entries == 2
    assert_same(fresh.embed_documents(TEXTS[:2]), vectors[:2])
    assert fresh.stats().batches == before.batches


@pytest.mark.usefixtures("faulty")
def test_a_non_finite_vector_is_an_error_of_its_own(fresh: EmbeddingEngine) -> None:
    with pytest.raises(NonFiniteEmbeddingError, match=r"texts\[0\] 'fog'.*try dtype='float32'"):
        fresh.embed_query("fog")
    assert fresh.stats().cache_entries == 0


def test_other_callers_are_untouched(fresh: EmbeddingEngine, faulty: FaultyEncoder, vectors: Vectors) -> None:
    with ThreadPoolExecutor(4) as pool:
        with faulty.held():
            first = pool.submit(fresh.embed_query, "holds back the next batch")
            faulty.begun()
            bad = pool.submit(fresh.embed_documents, ["storm", "calm"])
            good = pool.submit(fresh.embed_documents, TEXTS)
            wait_for_requests(fresh, 3)
        assert_same(good.result(PATIENCE), vectors)
        assert isinstance(bad.exception(PATIENCE), EmbeddingFailedError)
        assert first.result(PATIENCE).shape == (384,)


def test_a_timed_out_call_frees_its_place_in_the_queue(fresh: EmbeddingEngine, faulty: FaultyEncoder) -> None:
    with ThreadPoolExecutor(1) as pool, faulty.held():
        first = pool.submit(fresh.embed_query, "holds back the next batch")
        faulty.begun()
        for call in (fresh.embed_documents, fresh.embed_queries):
            with pytest.raises(EmbeddingTimeoutError, match=r"within timeout=0\.05 s: raise it"):
                call(TEXTS, timeout=0.05)
        assert fresh.stats().queued_requests == 1
    assert first.result(PATIENCE).shape == (384,)
    assert fresh.embed_query("next", timeout=PATIENCE).shape == (384,)
    assert len(faulty.batches) == 2  # none for the two that timed out


@pytest.mark.parametrize("streamed", [True, False])
def test_a_job_larger_than_the_queue_holds_a_query_back_by_one_batch(
    monkeypatch: pytest.MonkeyPatch, *, streamed: bool
) -> None:
    # Three of its windows, or blocks, are under way: two fill the queue, the third waits for room.
    monkeypatch.setattr(calls, "WINDOW_TEXTS", 16)
    # Their lengths differ, so that they share no batch.
    long = [f"{'and so on ' * (45 if number // 16 % 2 else 20)}{number}" for number in range(80)]
    with (
        EmbeddingEngine("nano", cache_bytes=0, batch_tokens=256, queue_tokens=4096) as engine,
        ThreadPoolExecutor(2) as pool,
    ):
        encoder = WatchedEncoder(engine)
        monkeypatch.setattr(encoder, "compute", lambda rows, pooling, prompt: np.ones((len(rows), 384), np.float32))
        with encoder.held():
            if streamed:
                job = pool.submit(lambda: np.concatenate(list(engine.stream_documents(long, block_size=16))))
            else:
                job = pool.submit(engine.embed_documents, long)
            encoder.begun()
            wait_for_requests(engine, 2)
            wait_for_waiting(engine._model.worker, 1)
            for turn in range(3):
                text = "storm " * (1 + 9 * turn)
                asked = pool.submit(engine.embed_query, text, wait=False)
                wait_for_requests(engine, 3)
                encoder.step()
                (length,) = engine.count_tokens([text])
                assert length in [tokens for _, tokens in encoder.batches[-1]], "the query is in the very next batch"
                encoder.step()
                assert asked.result(PATIENCE).shape == (384,)
        assert job.result(PATIENCE).shape == (80, 384)


def test_closing_ends_the_calls_that_wait(fresh: EmbeddingEngine, faulty: FaultyEncoder) -> None:
    with ThreadPoolExecutor(2) as pool:
        with faulty.held():
            calls = [pool.submit(fresh.embed_documents, TEXTS)]
            faulty.begun()
            calls.append(pool.submit(fresh.embed_query, "waits"))
            wait_for_requests(fresh, 2)
            fresh._model.worker.close(0)
            for call in calls:
                assert isinstance(call.exception(PATIENCE), EngineClosedError)
        fresh.close()
    assert faulty.released_by is not None
