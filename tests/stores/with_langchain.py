"""LangChain's stores. One function per store opens it, or creates it when it does not exist."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
from langchain_chroma import Chroma
from langchain_community.docstore import InMemoryDocstore
from langchain_community.vectorstores import FAISS, LanceDB
from langchain_core.vectorstores import VectorStore
from langchain_postgres import PGVector
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, FieldCondition, Filter, MatchValue, VectorParams
from sqlalchemy import Engine

from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.stores import check, check_folder, stamp
from tests.stores.passages import Passage
from tests.stores.place import COLLECTION, Place, chroma, identifier, metadata

NAME = "LangChain"


class Store:
    """A store, and the search arguments that restrict it to one page."""

    def __init__(self, store: VectorStore, only: Callable[[str], Mapping[str, Any]]) -> None:
        self.store, self._only = store, only

    def add(self, passages: Sequence[Passage]) -> None:
        texts = [passage.text for passage in passages]
        metadatas = [metadata(row, passage) for row, passage in enumerate(passages)]
        self.store.add_texts(texts, metadatas, ids=[identifier(row) for row in range(len(texts))])

    def search(self, question: str, page: str | None = None) -> list[int]:
        found = self.store.similarity_search(question, k=5, **({} if page is None else self._only(page)))
        return [document.metadata["row"] for document in found]

    def delete(self, rows: Sequence[int]) -> None:
        self.store.delete([identifier(row) for row in rows])


def embeddings(fields: Mapping[str, Any]) -> MLXQwenEmbeddings:
    return MLXQwenEmbeddings(**{"model": "nano", **fields})


@contextmanager
def on_chroma(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embeddings(fields)
    client, _ = chroma(place, made)
    yield Store(Chroma(COLLECTION, made, client=client), lambda page: {"filter": {"page": page}})
    client.close()  # type: ignore[attr-defined] # the type is that of the API, which has no close


@contextmanager
def on_faiss(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embeddings(fields)
    check_folder(made, place.folder)
    if (place.folder / "index.faiss").exists():
        store = FAISS.load_local(str(place.folder), made, allow_dangerous_deserialization=True)
    else:
        store = FAISS(made, faiss.IndexFlatIP(made.engine.dimensions), InMemoryDocstore(), {})
    yield Store(store, lambda page: {"filter": {"page": page}, "fetch_k": store.index.ntotal})
    store.save_local(str(place.folder))


@contextmanager
def on_lancedb(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embeddings(fields)
    check_folder(made, place.folder)
    store = LanceDB(uri=str(place.folder), table_name=COLLECTION, embedding=made, mode="append")
    yield Store(store, lambda page: {"filter": f"metadata.page = '{page}'", "prefilter": True})


@contextmanager
def on_qdrant(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embeddings(fields)
    check_folder(made, place.folder)
    client = QdrantClient(path=str(place.folder / "qdrant"))
    if not client.collection_exists(COLLECTION):
        shape = VectorParams(size=made.engine.dimensions, distance=Distance.COSINE)
        client.create_collection(COLLECTION, vectors_config=shape)

    def only(page: str) -> dict[str, Any]:
        return {"filter": Filter(must=[FieldCondition(key="metadata.page", match=MatchValue(value=page))])}

    yield Store(QdrantVectorStore(client, COLLECTION, made), only)
    client.close()


@contextmanager
def on_pgvector(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embeddings(fields)
    address = place.address.replace("postgresql://", "postgresql+psycopg://")
    store = PGVector(made, connection=address, collection_name=COLLECTION, collection_metadata=stamp(made))
    with store._make_sync_session() as session:
        found = store.get_collection(session)
        assert found is not None
        check(made, found.cmetadata)
    yield Store(store, lambda page: {"filter": {"page": page}})
    if isinstance(store._engine, Engine):
        store._engine.dispose()


KINDS = {
    "Chroma": on_chroma,
    "FAISS": on_faiss,
    "LanceDB": on_lancedb,
    "Qdrant": on_qdrant,
    "pgvector": on_pgvector,
}
