"""Any strings and any settings: right vectors, or one of this package's errors; ``make fuzz`` goes on for longer."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from mlx_qwen_embeddings import EmbeddingEngine, get_engine
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from tests.support import any_input as anything
from tests.support.checkpoints import WITH_TOKENIZER, random_weights, write_checkpoint

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
few = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
fewer = settings(few, max_examples=max(1, EXAMPLES // 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    shape = WITH_TOKENIZER
    return str(write_checkpoint(tmp_path_factory.mktemp("tiny"), random_weights(shape), shape.config()))


@pytest.fixture(scope="module")
def engine(folder: str) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine(folder) as engine:
        yield engine


@few
@given(anything.calls, anything.texts, anything.options)
def test_any_texts_and_options_that_fit(engine: EmbeddingEngine, call: str, texts: list[str], options: Any) -> None:
    anything.check_call(engine, call, texts, options)


@few
@given(anything.calls, anything.texts, anything.any_options)
def test_any_options(engine: EmbeddingEngine, call: str, texts: list[str], options: Any) -> None:
    anything.check_call(engine, call, texts, options)


@few
@given(anything.calls, anything.no_texts, anything.options)
def test_values_that_are_not_lists_of_strings(engine: EmbeddingEngine, call: str, texts: Any, options: Any) -> None:
    anything.check_call(engine, call, texts, options)


@fewer
@given(anything.few_long)
def test_strings_of_up_to_a_megabyte(engine: EmbeddingEngine, texts: list[str]) -> None:
    anything.check_call(engine, "embed_documents", texts, {"max_length": 64})


@fewer
@given(anything.texts, anything.some({name: anything.fitting[name] for name in ("dimensions", "normalize", "max_length")}))
def test_both_adapters(folder: str, texts: list[str], options: Any) -> None:
    langchain, llama_index = MLXQwenEmbeddings(model=folder, **options), MLXQwenEmbedding(model_name=folder, **options)
    for call in (langchain.embed_documents, llama_index.get_text_embedding_batch):
        found = anything.refuse(partial(call, texts), ["texts", *options])
        if found:
            anything.check_vectors(np.array(found, np.float32), len(texts), options)
    get_engine(folder).close()


@few
@given(anything.any_options)
def test_any_fields_of_the_adapters(folder: str, fields: Any) -> None:
    for make in (
        lambda: MLXQwenEmbeddings(model=folder, **fields),
        lambda: MLXQwenEmbedding(model_name=folder, **fields),
    ):
        anything.refuse(make, list(fields))


@few
@given(anything.engine_settings)
def test_any_settings(given_settings: Any) -> None:
    anything.check_settings(given_settings)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
@few
@given(anything.arrays, anything.arrays)
def test_comparing_anything(name: str, a: Any, b: Any) -> None:
    anything.check_similarity(name, a, b)
