"""``MLXQwenEmbedding``: its methods and events, and its life in LlamaIndex's settings, indexes and pipelines."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex, instrumentation
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from mlx_qwen_embeddings import get_engine, llama_index
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from tests.support.checkpoints import FIRST_NANO
from tests.support.four_passages import PASSAGES, QUESTIONS

TASK = "Given a question, find the answer"


@pytest.fixture
def model() -> MLXQwenEmbedding:
    return MLXQwenEmbedding("nano", dimensions=96, query_instruction=TASK)


def documents() -> list[Document]:
    return [Document(text=text, doc_id=str(number)) for number, text in enumerate(PASSAGES)]


async def test_every_method_returns_the_engines_vectors_as_lists(model: MLXQwenEmbedding) -> None:
    wanted = get_engine("nano").embed_documents(PASSAGES, dimensions=96).tolist()
    query = get_engine("nano").embed_query(PASSAGES[0], dimensions=96, instruction=TASK).tolist()
    assert model.get_text_embedding_batch(PASSAGES) == wanted
    assert await model.aget_text_embedding_batch(PASSAGES) == wanted
    assert model.get_text_embedding(PASSAGES[1]) == await model.aget_text_embedding(PASSAGES[1]) == wanted[1]
    assert model.get_query_embedding(PASSAGES[0]) == await model.aget_query_embedding(PASSAGES[0]) == query
    assert query != wanted[0]
    assert {type(value) for row in [*wanted, query] for value in row} == {float}
    assert model.get_text_embedding_batch([]) == await model.aget_text_embedding_batch([]) == []


def test_a_call_of_2048_texts_reaches_the_engine_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MLXQwenEmbedding("nano", dimensions=8)
    calls: list[int] = []
    inner = MLXQwenEmbedding._get_text_embeddings

    def counted(self: MLXQwenEmbedding, texts: list[str]) -> list[list[float]]:
        calls.append(len(texts))
        return inner(self, texts)

    monkeypatch.setattr(MLXQwenEmbedding, "_get_text_embeddings", counted)
    assert len(model.get_text_embedding_batch(["same"] * 2049)) == 2049
    assert calls == [2048, 1]
    assert MLXQwenEmbedding.model_fields["embed_batch_size"].default == 2048


async def test_the_asynchronous_methods_use_no_thread_of_the_pool(model: MLXQwenEmbedding) -> None:
    model.engine.warmup()
    release = threading.Event()
    texts = ["unseen: quince", "unseen: medlar"]
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        try:
            pool.submit(release.wait, 60)
            await asyncio.wait_for(model.aget_text_embedding_batch(texts), 30)
            await asyncio.wait_for(model.aget_query_embedding("unseen: sorb"), 30)
        finally:
            release.set()


def test_none_of_the_public_methods_is_overridden() -> None:
    public = {name for name in vars(BaseEmbedding) if name.startswith(("get_", "aget_"))}
    assert len(public) >= 6
    assert not public & set(vars(MLXQwenEmbedding))


class Events(BaseEventHandler):
    seen: list[BaseEvent] = []  # noqa: RUF012 - pydantic copies it for each instance

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        self.seen.append(event)


@pytest.fixture
def events() -> Any:
    handler, root = Events(), instrumentation.get_dispatcher()  # type: ignore[attr-defined] # it comes from another package
    root.add_event_handler(handler)
    yield handler.seen
    root.event_handlers.remove(handler)


async def test_each_call_gives_one_start_and_one_end_event(model: MLXQwenEmbedding, events: list[BaseEvent]) -> None:
    model.get_query_embedding("one")
    await model.aget_query_embedding("two")
    model.get_text_embedding_batch(["three", "four"])
    await model.aget_text_embedding_batch(["five", "six"])
    named = [event.class_name() for event in events]
    assert named == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 4
    assert [event.model_dict["class_name"] for event in events if hasattr(event, "model_dict")] == ["MLXQwenEmbedding"] * 4
    assert [event.chunks for event in events if hasattr(event, "chunks")] == [
        ["one"],
        ["two"],
        ["three", "four"],
        ["five", "six"],
    ]


def test_a_round_trip_through_a_dictionary(model: MLXQwenEmbedding) -> None:
    data = model.to_dict()
    assert data["class_name"] == MLXQwenEmbedding.class_name() == "MLXQwenEmbedding"
    assert json.loads(json.dumps(data)) == data
    for twin in (MLXQwenEmbedding.from_dict(data), MLXQwenEmbedding.model_validate(data)):
        assert twin.to_dict() == data
        assert twin.get_query_embedding("one") == model.get_query_embedding("one")
    assert MLXQwenEmbedding.from_json(model.to_json()).to_dict() == data


def test_options_of_a_run_are_not_part_of_the_pipelines_key() -> None:
    patient = MLXQwenEmbedding("nano", timeout=60, show_progress=True)
    assert patient.to_dict() == MLXQwenEmbedding("nano").to_dict()
    assert MLXQwenEmbedding("nano", truncate="error").to_dict() != MLXQwenEmbedding("nano").to_dict()


@pytest.mark.parametrize("use_async", [False, True])
def test_an_index_finds_by_meaning(*, use_async: bool) -> None:
    index = VectorStoreIndex.from_documents(documents(), embed_model=MLXQwenEmbedding("nano"), use_async=use_async)
    retriever = index.as_retriever(similarity_top_k=1)
    for question, answer in QUESTIONS.items():
        assert [found.text for found in retriever.retrieve(question)] == [PASSAGES[answer]]


async def test_an_index_uses_the_model_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MLXQwenEmbedding("nano", dimensions=64)
    monkeypatch.setattr(Settings, "_embed_model", None)
    Settings.embed_model = model
    retriever = VectorStoreIndex.from_documents(documents()).as_retriever(similarity_top_k=1)
    assert Settings.embed_model is model
    found = await retriever.aretrieve(next(iter(QUESTIONS)))
    assert [node.text for node in found] == [PASSAGES[0]]


def pipeline(model: MLXQwenEmbedding) -> IngestionPipeline:
    return IngestionPipeline(transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=0), model])


def test_a_new_version_of_nano_is_not_served_from_the_pipelines_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pipeline(MLXQwenEmbedding("nano", dimensions=40))
    with monkeypatch.context() as older:
        older.setattr(llama_index, "nano_fingerprint", lambda: FIRST_NANO)
        first.run(documents=documents())
        first.persist(str(tmp_path))
    model = MLXQwenEmbedding("nano", dimensions=40)
    loaded = pipeline(model)
    loaded.load(str(tmp_path))
    before = model.engine.stats().texts
    loaded.run(documents=documents())
    assert model.engine.stats().texts > before
    assert "model_content" not in MLXQwenEmbedding("small").to_dict()


def test_a_second_run_of_a_pipeline_embeds_nothing(tmp_path: Path) -> None:
    model = MLXQwenEmbedding("nano", dimensions=48)
    first = pipeline(model)
    nodes = first.run(documents=documents())
    first.persist(str(tmp_path))
    before = model.engine.stats().texts
    again = first.run(documents=documents())
    loaded = pipeline(MLXQwenEmbedding("nano", dimensions=48))
    loaded.load(str(tmp_path))
    reloaded = loaded.run(documents=documents())
    assert model.engine.stats().texts == before
    wanted = model.get_text_embedding_batch(PASSAGES)
    assert [node.embedding for node in nodes] == [node.embedding for node in again] == wanted
    assert [node.embedding for node in reloaded] == wanted


async def test_the_pipelines_cache_tells_settings_apart() -> None:
    shared = pipeline(MLXQwenEmbedding("nano", dimensions=48))
    await shared.arun(documents=documents())
    shared.transformations[-1] = changed = MLXQwenEmbedding("nano", dimensions=48, document_instruction="Read it")
    nodes = await shared.arun(documents=documents())
    assert [node.embedding for node in nodes] == changed.get_text_embedding_batch(PASSAGES)


def test_nodes_are_embedded_by_calling_the_model(model: MLXQwenEmbedding) -> None:
    (node,) = model([TextNode(text=PASSAGES[0])])
    np.testing.assert_array_equal(node.embedding, model.get_text_embedding(PASSAGES[0]))


def test_the_cache_that_would_mix_queries_and_documents_is_refused(model: MLXQwenEmbedding) -> None:
    with pytest.raises(ValidationError, match="embeddings_cache keys vectors by the text alone"):
        MLXQwenEmbedding("nano", embeddings_cache=SimpleKVStore())
    model.embeddings_cache = store = SimpleKVStore()  # set later, it is refused by the first call
    for call in (model.get_query_embedding, model.get_text_embedding):
        with pytest.raises(ValueError, match="embeddings_cache keys vectors by the text alone"):
            call("one")
    assert store.get_all(collection="embeddings") == {}


@pytest.mark.parametrize("instruction", ["", TASK])
def test_the_cache_is_used_where_queries_and_documents_are_alike(instruction: str) -> None:
    alike: dict[str, Any] = {"query_instruction": instruction, "document_instruction": instruction}
    model = MLXQwenEmbedding("nano", embeddings_cache=SimpleKVStore(), **alike)
    document = model.get_text_embedding("one")
    before = model.engine.stats().texts
    assert model.get_query_embedding("one") == document
    assert model.engine.stats().texts == before
    assert document == MLXQwenEmbedding("nano", **alike).get_query_embedding("one")
