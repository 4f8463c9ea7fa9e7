"""Helpers for the stores of both frameworks."""

from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_OID, uuid5

import chromadb
from chromadb.api import ClientAPI
from chromadb.config import Settings

from mlx_qwen_embeddings.stores import check, stamp
from tests.stores.passages import Passage

COLLECTION = "passages"


class Place(NamedTuple):
    """Where a store is: a folder, or the address of a database server."""

    folder: Path
    address: str = ""


def identifier(row: int) -> str:
    """Return a passage's id in a store. Qdrant requires UUIDs."""
    return str(uuid5(NAMESPACE_OID, str(row)))


def metadata(row: int, passage: Passage) -> dict[str, Any]:
    return {"row": row, "page": passage.page, "part": passage.part}


def chroma(place: Place, model: Any) -> tuple[ClientAPI, chromadb.Collection]:
    """Open Chroma's collection, or create it with the model's stamp."""
    client = chromadb.PersistentClient(str(place.folder), Settings(anonymized_telemetry=False))
    settings: Any = {"hnsw": {"space": "cosine", "ef_search": 200}}
    collection = client.get_or_create_collection(COLLECTION, metadata=stamp(model), configuration=settings)
    check(model, collection.metadata)
    return client, collection
