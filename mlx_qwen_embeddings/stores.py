"""Record in a store which model made its vectors: vectors of two models cannot be compared.

Most stores notice a wrong width, but no store notices another model of the same width. Where a store keeps metadata for a
collection, put ``stamp`` there and let ``check`` read it. Where the store is a folder, ``check_folder`` does both.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._adapter import AdapterOptions
from mlx_qwen_embeddings._files import move, sync
from mlx_qwen_embeddings.errors import IndexMismatchError
from mlx_qwen_embeddings.options import OPTIONS

KEY = "mlx_qwen_embeddings"
"""The entry in a collection's metadata."""

RECORD = "mlx-qwen-vectors.json"
"""The file in a folder."""

_FOR_MESSAGES = {"model", "revision"}
"""Entries that only make messages clearer: the content is what is compared."""


def stamp(embeddings: AdapterOptions) -> dict[str, str]:
    """Return how these embeddings make a document's vector, as one entry of one string, which any store's metadata takes.

    Opens the model, which may download it.

    Args:
        embeddings: ``MLXQwenEmbeddings``, ``MLXQwenEmbedding``, or the options of a Chroma embedding function.
    """
    return {KEY: json.dumps(_record(embeddings))}


def check(embeddings: AdapterOptions, metadata: Mapping[str, Any] | None, *, name: str = "the store") -> None:
    """Raise an error when these embeddings do not fit the vectors of a store.

    The instruction of queries and the length at which texts are cut are not compared: both may change over the same
    documents.

    Args:
        embeddings: As for ``stamp``.
        metadata: What the store keeps, including the entry of ``stamp``.
        name: The store's name, for the message.

    Raises:
        IndexMismatchError: When the documents were embedded differently, or the store does not say how. The message says
            what differs and what to do.
    """
    if not metadata or KEY not in metadata:
        raise IndexMismatchError(
            f"{name} does not say which model made its vectors: rebuild it with stamp(embeddings) in its metadata, or add "
            "that entry if you are sure that these embeddings made them"
        )
    stored, wanted = json.loads(metadata[KEY]), _record(embeddings)
    differing = [key for key in wanted | stored if key not in _FOR_MESSAGES and _entry(stored, key) != _entry(wanted, key)]
    if differing:
        used = "; ".join(_difference(key, stored, wanted) for key in differing)
        message = f"{name} holds vectors made with {used}: embed with the same, or build another store for these"
        if "content" in differing:
            message += _remedy(stored, wanted)
        raise IndexMismatchError(message)


def check_folder(embeddings: AdapterOptions, folder: str | Path) -> None:
    """Record in a new folder how these embeddings make vectors; in a folder with a record, check that they fit it.

    For stores that are a folder, with one folder for each store: FAISS, LanceDB, Qdrant's local mode, LlamaIndex's
    ``persist_dir``. Call it before you add texts, and each time you open the store.

    Args:
        embeddings: As for ``stamp``.
        folder: The store's folder; created when it does not exist.

    Raises:
        IndexMismatchError: As ``check`` does; also when the folder has content but no record.
    """
    path = Path(folder)
    record = path / RECORD
    if record.is_file():
        check(embeddings, json.loads(record.read_text("utf-8")), name=str(path))
    elif path.is_dir() and any(not inside.name.startswith(RECORD) for inside in path.iterdir()):
        raise IndexMismatchError(
            f"{path} does not say which model made its vectors: build the store again in an empty folder, or write "
            f"json.dumps(stamp(embeddings)) into {record} if you are sure that these embeddings made them"
        )
    else:
        path.mkdir(parents=True, exist_ok=True)
        temporary = path / f"{RECORD}.{uuid.uuid4().hex}"  # several processes may open a new store at once
        temporary.write_text(json.dumps(stamp(embeddings)), "utf-8")
        sync(temporary)
        move(temporary, record)


def _record(embeddings: AdapterOptions) -> dict[str, Any]:
    engine = embeddings.engine
    options = embeddings.vector_options("document")
    options.pop("max_length", None)
    return {
        "model": engine.settings.model,
        "revision": engine.revision,
        "content": engine.fingerprint,
        **options,
        "dimensions": embeddings.dimensions or engine.dimensions,
    }


def _entry(record: Mapping[str, Any], key: str) -> Any:
    return record.get(key, OPTIONS[key].default if key in OPTIONS else None)


def _difference(key: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if key != "content":
        return f"{key} {_entry(stored, key)!r}, not {_entry(wanted, key)!r}"
    if stored.get("model") != wanted["model"]:
        return f"the model {stored.get('model')!r}, not {wanted['model']!r}"
    if stored.get("revision") and wanted["revision"]:
        return f"the model {wanted['model']!r} at revision {stored['revision']!r}, not {wanted['revision']!r}"
    return f"other files of the model {wanted['model']!r}"


def _remedy(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return how to get the same model, where that may be possible."""
    if stored.get("revision") and stored.get("model") == wanted["model"]:
        return f". Pass revision={stored['revision']!r} to get the model as it was"
    if Path(wanted["model"]).exists():
        return ". Copies of a folder must keep the modification times to count as the same model: use rsync -a or cp -p"
    return ""
