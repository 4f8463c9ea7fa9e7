"""``MLXQwenEmbeddings``: vectors as LangChain wants them, its asynchronous forms, and many callers at once."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.runnables import RunnableLambda, RunnableParallel

from mlx_qwen_embeddings import _adapter as adapter_options
from mlx_qwen_embeddings import get_engine
from mlx_qwen_embeddings.cache.memory import MemoryCache
from mlx_qwen_embeddings.errors import EmbeddingTimeoutError, InputTooLongError
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings

DOCUMENTS = ["The cat sat on the mat.", "", "Prices rose by 3 % in May.\n\nWages did not.", "The cat sat on the mat."]
QUERY = "where is the pet?"


@pytest.fixture
def embeddings() -> MLXQwenEmbeddings:
    return MLXQwenEmbeddings("nano", dimensions=96, query_instruction="Given a question, find the answer")


def as_runnable(embeddings: MLXQwenEmbeddings) -> RunnableLambda[str, list[float]]:
    return RunnableLambda(embeddings.embed_query, afunc=embeddings.aembed_query)


def test_vectors_are_lists_of_python_floats(embeddings: MLXQwenEmbeddings) -> None:
    documents, query = embeddings.embed_documents(DOCUMENTS), embeddings.embed_query(QUERY)
    assert type(documents) is list
    assert {type(row) for row in documents} == {list} == {type(query)}
    assert {type(value) for row in (*documents, query) for value in row} == {float}
    assert [len(row) for row in documents] == [96] * 4
    assert documents[0] == documents[3] != documents[2]


def test_no_documents_give_no_vectors(embeddings: MLXQwenEmbeddings) -> None:
    assert embeddings.embed_documents([]) == []


def test_dimensions_are_cut_from_the_full_vector_and_normalised_again(embeddings: MLXQwenEmbeddings) -> None:
    full = np.array(MLXQwenEmbeddings("nano").embed_documents(DOCUMENTS))[:, :96]
    expected = full / np.linalg.norm(full, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings.embed_documents(DOCUMENTS), expected, atol=1e-6)


async def test_the_asynchronous_methods_return_the_same(embeddings: MLXQwenEmbeddings) -> None:
    assert await embeddings.aembed_documents(DOCUMENTS) == embeddings.embed_documents(DOCUMENTS)
    assert await embeddings.aembed_query(QUERY) == embeddings.embed_query(QUERY)
    assert await embeddings.aembed_documents([]) == []


async def test_the_event_loop_runs_while_many_numbers_are_made(
    embeddings: MLXQwenEmbeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_options, "NUMBERS_AT_ONCE", 200)  # two vectors
    texts, turns, made = [f"Text {number}" for number in range(9)], 0, asyncio.Event()
    embeddings.embed_documents(texts)

    async def count() -> None:
        nonlocal turns
        while not made.is_set():
            turns += 1
            await asyncio.sleep(0)

    vectors = np.array(embeddings.embed_documents(texts), np.float32)
    counting = asyncio.create_task(count())
    found = await adapter_options.to_floats_in_turns(vectors)
    made.set()
    await counting
    assert found == vectors.tolist()
    assert turns >= 4
    assert await embeddings.aembed_documents(texts) == found


async def test_the_asynchronous_methods_use_no_thread_of_the_pool(embeddings: MLXQwenEmbeddings) -> None:
    embeddings.engine.warmup()
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        try:
            pool.submit(release.wait, 60)  # LangChain's default forms would wait behind it
            vectors = await asyncio.wait_for(embeddings.aembed_documents(["not seen by any other test: marmalade"]), 30)
        finally:
            release.set()
    assert len(vectors) == 1


def test_an_error_of_the_engine_reaches_the_caller(embeddings: MLXQwenEmbeddings) -> None:
    strict = embeddings.model_copy(update={"max_length": 20, "truncate": "error"})
    with pytest.raises(InputTooLongError, match=r"texts\[1\]"):
        strict.embed_documents(["short", "long " * 50])
    with pytest.raises(TypeError, match=r"texts\[2\]"):
        embeddings.embed_documents(["a", "b", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        embeddings.embed_documents("one string")  # type: ignore[arg-type]
    hasty = embeddings.model_copy(update={"timeout": 1e-9})
    with pytest.raises(EmbeddingTimeoutError):
        hasty.embed_query("too late")


@pytest.mark.parametrize("show", [True, False])
async def test_progress_is_shown_only_for_documents(
    embeddings: MLXQwenEmbeddings, *, show: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = embeddings.model_copy(update={"show_progress": show})
    shown.embed_query(QUERY)
    assert "Embedding" not in capfd.readouterr().err
    shown.embed_documents(DOCUMENTS)
    assert ("4/4" in capfd.readouterr().err) is show
    await shown.aembed_query(QUERY)
    assert "Embedding" not in capfd.readouterr().err
    await shown.aembed_documents(DOCUMENTS)
    assert ("4/4" in capfd.readouterr().err) is show


def test_runnable_parallel_over_two_instructions(embeddings: MLXQwenEmbeddings) -> None:
    other = MLXQwenEmbeddings("nano", query_instruction="Find the opposite")
    both = RunnableParallel(one=as_runnable(embeddings), other=as_runnable(other)).invoke(QUERY)
    assert both == {"one": embeddings.embed_query(QUERY), "other": other.embed_query(QUERY)}


def forget() -> None:
    cache = get_engine("nano")._model.cache
    assert isinstance(cache, MemoryCache)
    cache.clear()


def alone(texts: list[str]) -> np.ndarray:
    """Return vectors of texts that share no batch and are not cached."""
    return np.array([get_engine("nano").embed_query(text) for text in texts])


async def test_abatch_from_many_tasks_gives_each_its_own() -> None:
    texts = [f"task {task} asks question {number} " + "again " * (number % 7) for task in range(8) for number in range(8)]
    runnable = as_runnable(MLXQwenEmbeddings("nano"))
    tasks = [asyncio.create_task(runnable.abatch(texts[start : start + 8])) for start in range(0, 64, 8)]
    found = [vector for batch in await asyncio.wait_for(asyncio.gather(*tasks), 60) for vector in batch]
    forget()
    np.testing.assert_allclose(found, alone(texts), atol=1e-5)


def test_two_event_loops_at_once_share_the_engine() -> None:
    embeddings = MLXQwenEmbeddings("nano")
    texts = [[f"loop {loop} asks question {number}" for number in range(24)] for loop in range(2)]
    barrier = threading.Barrier(2, timeout=30)

    async def ask(mine: list[str]) -> list[list[float]]:
        barrier.wait()
        return await asyncio.wait_for(as_runnable(embeddings).abatch(mine), 60)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda mine: asyncio.run(ask(mine)), texts))
    forget()
    for vectors, mine in zip(found, texts, strict=True):
        np.testing.assert_allclose(vectors, alone(mine), atol=1e-5)
