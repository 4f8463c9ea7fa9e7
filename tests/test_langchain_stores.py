"""``MLXQwenEmbeddings`` in LangChain's vector stores, in a retrieval chain, and behind LangChain's cache."""

from collections.abc import Callable
from pathlib import Path

import pytest
from chromadb.config import Settings
from langchain_chroma import Chroma
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import LocalFileStore
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from tests.support.four_passages import PASSAGES, QUESTIONS


@pytest.fixture
def embeddings() -> MLXQwenEmbeddings:
    return MLXQwenEmbeddings("nano")


def in_memory(embeddings: MLXQwenEmbeddings, folder: Path) -> VectorStore:
    return InMemoryVectorStore.from_texts(PASSAGES, embeddings)


def on_faiss(embeddings: MLXQwenEmbeddings, folder: Path) -> VectorStore:
    FAISS.from_texts(PASSAGES, embeddings).save_local(str(folder))
    return FAISS.load_local(str(folder), embeddings, allow_dangerous_deserialization=True)


def chroma(embeddings: MLXQwenEmbeddings, folder: Path) -> Chroma:
    settings = Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=str(folder))
    return Chroma("passages", embeddings, client_settings=settings, collection_metadata={"hnsw:space": "cosine"})


def on_chroma(embeddings: MLXQwenEmbeddings, folder: Path) -> VectorStore:
    chroma(embeddings, folder).add_texts(PASSAGES)
    return chroma(embeddings, folder)


@pytest.mark.parametrize("build", [in_memory, on_faiss, on_chroma])
async def test_a_store_finds_by_meaning(
    build: Callable[[MLXQwenEmbeddings, Path], VectorStore], embeddings: MLXQwenEmbeddings, tmp_path: Path
) -> None:
    store = build(embeddings, tmp_path)
    for question, answer in QUESTIONS.items():
        assert [found.page_content for found in store.similarity_search(question, k=1)] == [PASSAGES[answer]]
        assert [found.page_content for found in await store.asimilarity_search(question, k=1)] == [PASSAGES[answer]]


async def test_a_retrieval_chain_gives_the_right_passage_to_the_model(embeddings: MLXQwenEmbeddings) -> None:
    def joined(documents: list[Document]) -> str:
        return "\n".join(document.page_content for document in documents)

    retriever = InMemoryVectorStore.from_texts(PASSAGES, embeddings).as_retriever(search_kwargs={"k": 1})
    prompt = ChatPromptTemplate.from_template("{context} | {question}")
    fields = {"context": retriever | joined, "question": RunnablePassthrough()}
    chain = fields | prompt | ParrotFakeChatModel() | StrOutputParser()  # it answers with its prompt
    expected = [f"{PASSAGES[answer]} | {question}" for question, answer in QUESTIONS.items()]
    assert chain.batch(list(QUESTIONS)) == expected
    assert await chain.abatch(list(QUESTIONS)) == expected


async def test_cache_backed_embeddings_compute_once_per_namespace(embeddings: MLXQwenEmbeddings, tmp_path: Path) -> None:
    def cached(inner: MLXQwenEmbeddings) -> CacheBackedEmbeddings:
        store = LocalFileStore(tmp_path)
        return CacheBackedEmbeddings.from_bytes_store(inner, store, namespace=inner.fingerprint, key_encoder="blake2b")

    narrow = MLXQwenEmbeddings("nano", dimensions=64)
    first = cached(embeddings).embed_documents(PASSAGES)
    assert first == embeddings.embed_documents(PASSAGES)
    assert cached(narrow).embed_documents(PASSAGES) == narrow.embed_documents(PASSAGES)
    before = embeddings.engine.stats().texts
    assert cached(embeddings).embed_documents(PASSAGES) == first
    assert await cached(embeddings).aembed_documents(PASSAGES) == first
    assert embeddings.engine.stats().texts == before


def test_queries_in_a_separate_store_are_not_mistaken_for_documents() -> None:
    embeddings = MLXQwenEmbeddings("nano", query_instruction="Given a question, find the answer")
    cached = CacheBackedEmbeddings.from_bytes_store(
        embeddings,
        InMemoryByteStore(),
        namespace=embeddings.fingerprint,
        query_embedding_cache=InMemoryByteStore(),
        key_encoder="blake2b",
    )
    text = PASSAGES[0]
    for _ in range(2):
        assert cached.embed_documents([text]) == embeddings.embed_documents([text])
        assert cached.embed_query(text) == embeddings.embed_query(text)
    assert cached.embed_query(text) != cached.embed_documents([text])[0]
