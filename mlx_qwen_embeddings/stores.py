"""Which model made the vectors of a store, written down beside them: vectors of two models say nothing to each other.

Most stores notice a wrong width, and none a changed model of the same width. Where a store keeps a collection's metadata,
``stamp`` goes there and ``check`` reads it; where it is a folder, ``check_folder`` does both.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._adapter import AdapterOptions
from mlx_qwen_embeddings._files import move, sync
from mlx_qwen_embeddings.errors import IndexMismatchError

KEY = "mlx_qwen_embeddings"
"""In a collection's metadata."""

RECORD = "mlx-qwen-vectors.json"
"""In a folder."""

_NAMES = {"model", "revision"}
"""What a record has for the message alone: the content is compared."""

_SHAPING = ("normalize", "precision", "pooling", "document_instruction", "chat_template")


def stamp(embeddings: AdapterOptions) -> dict[str, str]:
    """Say how these embeddings make a document's vector: one entry of one string, which any store's metadata takes.

    Opens the model, which may download it.

    Args:
        embeddings: ``MLXQwenEmbeddings``, ``MLXQwenEmbedding``, or the options of a Chroma embedding function.
    """
    return {KEY: json.dumps(_made(embeddings))}


def check(embeddings: AdapterOptions, metadata: Mapping[str, Any] | None, *, name: str = "the store") -> None:
    """Refuse embeddings that do not go with the vectors of a store.

    A query's instruction is no part of it, nor how texts are cut: both may change over the same documents.

    Args:
        embeddings: As for ``stamp``.
        metadata: What the store kept of ``stamp``, among other entries.
        name: Of the store, for the message.

    Raises:
        IndexMismatchError: When the documents were embedded otherwise, or the store does not say how; the message says what
            differs and what to do.
    """
    if not metadata or KEY not in metadata:
        message = (
            f"{name} does not say which model made its vectors: build it anew with stamp(embeddings) in its metadata, or "
            "add that to it if you are sure that these embeddings made them"
        )
        raise IndexMismatchError(message)
    stored, wanted = json.loads(metadata[KEY]), _made(embeddings)
    differing = [key for key in wanted if key not in _NAMES and stored.get(key) != wanted[key]]
    if differing:
        used = "; ".join(_difference(key, stored, wanted) for key in differing)
        message = f"{name} holds vectors made with {used}: embed with the same, or build another store for these"
        if "content" in differing:
            message += _remedy(stored, wanted)
        raise IndexMismatchError(message)


def check_folder(embeddings: AdapterOptions, folder: str | Path) -> None:
    """Write down how these embeddings make vectors when the folder is new; later refuse others.

    For stores that are a folder, one folder a store: FAISS, LanceDB, Qdrant's local mode, LlamaIndex's ``persist_dir``.
    Call it before texts are added, and again whenever the store is opened.

    Args:
        embeddings: As for ``stamp``.
        folder: Of the store; made when it is not there.

    Raises:
        IndexMismatchError: As ``check``; also when the folder holds something but no record.
    """
    path = Path(folder)
    record = path / RECORD
    if record.is_file():
        check(embeddings, json.loads(record.read_text("utf-8")), name=str(path))
    elif path.is_dir() and any(not inside.name.startswith(RECORD) for inside in path.iterdir()):
        message = (
            f"{path} does not say which model made its vectors: build the store anew in an empty folder, or write "
            f"json.dumps(stamp(embeddings)) into {record} if you are sure that these embeddings made them"
        )
        raise IndexMismatchError(message)
    else:
        path.mkdir(parents=True, exist_ok=True)
        temporary = path / f"{RECORD}.{uuid.uuid4().hex}"  # several may open a new store at once
        temporary.write_text(json.dumps(stamp(embeddings)), "utf-8")
        sync(temporary)
        move(temporary, record)


def _made(embeddings: AdapterOptions) -> dict[str, Any]:
    engine = embeddings.engine
    return {
        "model": engine.settings.model,
        "revision": engine.revision,
        "content": engine.fingerprint,
        "dimensions": embeddings.dimensions or engine.dimensions,
        **{name: getattr(embeddings, name) for name in _SHAPING},
    }


def _difference(key: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if key != "content":
        return f"{key} {stored.get(key)!r}, not {wanted[key]!r}"
    if stored.get("model") != wanted["model"]:
        return f"the model {stored.get('model')!r}, not {wanted['model']!r}"
    if stored.get("revision") and wanted["revision"]:
        return f"the model {wanted['model']!r} at revision {stored['revision']!r}, not {wanted['revision']!r}"
    return f"the model {wanted['model']!r} while its files were others"


def _remedy(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say how the same model is had, where it may be the same."""
    if stored.get("revision") and stored.get("model") == wanted["model"]:
        return f". Pass revision={stored['revision']!r} to have the model as it was"
    if Path(wanted["model"]).exists():
        return ". Copies of a folder need the same times of change to count as the same model: rsync -a, or cp -p"
    return ""
