"""The ``precision`` of calls and adapters: what is quantised, when, and what is refused."""

import numpy as np
import pytest
from pydantic import ValidationError

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from mlx_qwen_embeddings.options import PRECISIONS, Precision
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from tests.support.four_passages import PASSAGES, QUESTIONS

QUERY = next(iter(QUESTIONS))

every = pytest.mark.parametrize("precision", PRECISIONS)


@every
@pytest.mark.parametrize("dimensions", [None, 36])
async def test_vectors_are_quantised_last(fresh: EmbeddingEngine, precision: Precision, dimensions: int | None) -> None:
    whole, query = fresh.embed_documents(PASSAGES, dimensions=dimensions), fresh.embed_query(QUERY, dimensions=dimensions)
    ranges = unit_ranges(dimensions or 384)
    wanted, wanted_query = quantize(whole, precision, ranges), quantize(query, precision, ranges)
    options = {"precision": precision, "dimensions": dimensions}
    for found in (
        fresh.embed_documents(PASSAGES, **options),  # type: ignore[arg-type]
        await fresh.aembed_documents(PASSAGES, **options),  # type: ignore[arg-type]
        np.concatenate(list(fresh.stream_documents(PASSAGES, block_size=3, **options))),  # type: ignore[arg-type]
        (await fresh.aembed(PASSAGES, **options)).vectors,  # type: ignore[arg-type]
    ):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(fresh.embed_query(QUERY, **options), wanted_query)  # type: ignore[arg-type]
    assert fresh.embed_documents([], **options).shape == (0, wanted.shape[1])  # type: ignore[arg-type]


def test_the_cache_keeps_whole_vectors(fresh: EmbeddingEngine) -> None:
    fresh.embed_documents(PASSAGES, precision="ubinary")
    batches = fresh.stats().batches
    with EmbeddingEngine("nano") as other:
        np.testing.assert_allclose(fresh.embed_documents(PASSAGES), other.embed_documents(PASSAGES), atol=1e-6)
    assert fresh.stats().batches == batches


def test_bad_combinations_are_refused_before_anything_is_computed(fresh: EmbeddingEngine) -> None:
    with pytest.raises(ValueError, match=r"precision must be one of 'float32', 'float16', .*, got 'int4'"):
        fresh.embed_documents(PASSAGES, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'int8' needs vectors of unit length: leave out normalize=False"):
        fresh.embed_documents(PASSAGES, precision="int8", normalize=False)
    assert fresh.embed_documents(PASSAGES, precision="binary", normalize=False).shape == (4, 48)
    assert fresh.stats().batches == 1


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_adapters_give_floats_of_that_precision(precision: Precision) -> None:
    chain, index = MLXQwenEmbeddings("nano", precision=precision), MLXQwenEmbedding("nano", precision=precision)
    documents = chain.embed_documents(PASSAGES)
    assert {type(value) for row in documents for value in row} == {float}
    np.testing.assert_array_equal(documents, chain.engine.embed_documents(PASSAGES, precision=precision))
    assert documents == index.get_text_embedding_batch(PASSAGES)
    query = chain.embed_query(QUERY)
    assert query == index.get_query_embedding(QUERY)
    assert int(np.argmax(np.array(documents) @ query)) == QUESTIONS[QUERY]


@pytest.mark.parametrize("adapter", [MLXQwenEmbeddings, MLXQwenEmbedding])
@pytest.mark.parametrize("precision", ["uint8", "binary", "ubinary"])
def test_adapters_refuse_what_stores_would_compare_wrongly(adapter: type, precision: Precision) -> None:
    with pytest.raises(ValidationError, match=rf"choose float32, float16 or int8, or call engine.*'{precision}'"):
        adapter("nano", precision=precision)


@pytest.mark.parametrize("adapter", [MLXQwenEmbeddings, MLXQwenEmbedding])
def test_the_fingerprint_tells_precisions_apart(adapter: type[MLXQwenEmbeddings]) -> None:
    given: list[Precision] = ["float32", "float16", "int8"]
    prints = [adapter("nano").fingerprint, *(adapter("nano", precision=precision).fingerprint for precision in given)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
