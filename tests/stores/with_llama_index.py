"""LlamaIndex's stores. One function per store opens it, or creates it when it does not exist."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import sqlalchemy
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.vector_stores.chroma import ChromaVectorStore
from llama_index.vector_stores.faiss import FaissMapVectorStore
from llama_index.vector_stores.lancedb import LanceDBVectorStore
from llama_index.vector_stores.postgres import PGVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from mlx_qwen_embeddings.stores import check, check_folder, stamp
from tests.stores.passages import Passage
from tests.stores.place import COLLECTION, Place, chroma, identifier, metadata

NAME = "LlamaIndex"
TABLE = f"data_{COLLECTION}"
"""Name that LlamaIndex gives the table in PostgreSQL."""


class Store:
    """An index on a store."""

    def __init__(self, index: VectorStoreIndex) -> None:
        self.index = index

    def add(self, passages: Sequence[Passage]) -> None:
        nodes = [
            TextNode(
                id_=identifier(row),
                text=passage.text,
                metadata=metadata(row, passage),
                excluded_embed_metadata_keys=["row", "page", "part"],
            )
            for row, passage in enumerate(passages)
        ]
        self.index.insert_nodes(nodes)

    def search(self, question: str, page: str | None = None) -> list[int]:
        filters = None if page is None else MetadataFilters(filters=[MetadataFilter(key="page", value=page)])
        found = self.index.as_retriever(similarity_top_k=5, filters=filters).retrieve(question)
        return [hit.node.metadata["row"] for hit in found]

    def delete(self, rows: Sequence[int]) -> None:
        self.index.delete_nodes([identifier(row) for row in rows])


def embed_model(fields: Mapping[str, Any]) -> MLXQwenEmbedding:
    return MLXQwenEmbedding(**{"model": "nano", **fields})


@contextmanager
def on_chroma(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embed_model(fields)
    client, collection = chroma(place, made)
    yield Store(VectorStoreIndex.from_vector_store(ChromaVectorStore(chroma_collection=collection), made))
    client.close()  # type: ignore[attr-defined] # the type is that of the API, which has no close


@contextmanager
def on_faiss(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embed_model(fields)
    check_folder(made, place.folder)
    if (place.folder / "docstore.json").exists():
        vectors = FaissMapVectorStore.from_persist_dir(str(place.folder))
        context = StorageContext.from_defaults(vector_store=vectors, persist_dir=str(place.folder))
        index = load_index_from_storage(context, embed_model=made)
    else:
        vectors = FaissMapVectorStore(faiss.IndexIDMap2(faiss.IndexFlatIP(made.engine.dimensions)))
        context = StorageContext.from_defaults(vector_store=vectors)
        index = VectorStoreIndex([], storage_context=context, embed_model=made)
    assert isinstance(index, VectorStoreIndex)
    yield Store(index)
    index.storage_context.persist(str(place.folder))


class LanceDBStore(Store):
    """Deletes from the table directly: LlamaIndex quotes ids in the way that LanceDB, since 0.38, quotes columns."""

    def delete(self, rows: Sequence[int]) -> None:
        store = self.index.vector_store
        assert isinstance(store, LanceDBVectorStore)
        ids = ", ".join(f"'{identifier(row)}'" for row in rows)
        table: Any = store.table
        table.delete(f"id IN ({ids})")


@contextmanager
def on_lancedb(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embed_model(fields)
    check_folder(made, place.folder)
    store = LanceDBVectorStore(uri=str(place.folder), table_name=COLLECTION)
    yield LanceDBStore(VectorStoreIndex.from_vector_store(store, made))


@contextmanager
def on_qdrant(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embed_model(fields)
    check_folder(made, place.folder)
    client = QdrantClient(path=str(place.folder / "qdrant"))
    yield Store(VectorStoreIndex.from_vector_store(QdrantVectorStore(COLLECTION, client=client), made))
    client.close()


@contextmanager
def on_pgvector(place: Place, fields: Mapping[str, Any]) -> Iterator[Store]:
    made = embed_model(fields)
    address = place.address.replace("postgresql://", "postgresql+psycopg2://")
    engine = sqlalchemy.create_engine(address)
    if sqlalchemy.inspect(engine).has_table(TABLE):
        with engine.begin() as session:
            check(made, json.loads(session.scalar(sqlalchemy.text(f"SELECT obj_description('{TABLE}'::regclass)"))))
    store = PGVectorStore.from_params(
        connection_string=address,
        async_connection_string=place.address.replace("postgresql://", "postgresql+asyncpg://"),
        table_name=COLLECTION,
        embed_dim=made.engine.dimensions,
    )
    yield Store(VectorStoreIndex.from_vector_store(store, made))
    with engine.begin() as session:  # LlamaIndex stores no metadata of a table, but PostgreSQL can
        session.execute(sqlalchemy.text(f"COMMENT ON TABLE {TABLE} IS '{json.dumps(stamp(made))}'".replace(":", "\\:")))
    engine.dispose()


KINDS = {
    "Chroma": on_chroma,
    "FAISS": on_faiss,
    "LanceDB": on_lancedb,
    "Qdrant": on_qdrant,
    "pgvector": on_pgvector,
}
