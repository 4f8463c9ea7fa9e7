"""The database of an index: a LanceDB table of passages and vectors, and a record of how they were made."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings._files import replaced
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.errors import IndexMismatchError, UnknownModelError
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.registry import resolve

RECORD, TABLE = "mlx-qwen-index.json", "passages"
VERSION = 1


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """How all vectors of a database were made.

    Attributes:
        model: Name of the model, as the user gave it.
        revision: Commit on the Hub; None for a local folder or file, and for ``nano``.
        fingerprint: Hash of the model's content.
        dimensions: Width of the vectors.
        instruction: Instruction before each question; None is the model's own.
        chunk_tokens: Most tokens in a passage.
        overlap: Most tokens that neighbouring passages share.
        options: Fields of the embeddings that shape the vectors of passages and differ from their defaults.
    """

    model: str
    revision: str | None
    fingerprint: str
    dimensions: int
    instruction: str | None
    chunk_tokens: int
    overlap: int
    options: dict[str, Any] = field(default_factory=dict)


def read_record(folder: Path) -> IndexRecord | None:
    """Return the record of a database, or None if there is no database.

    Raises:
        IndexMismatchError: If the record has another version.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record = json.loads(path.read_text("utf-8"))
    if record.pop("version", None) != VERSION:
        raise IndexMismatchError(f"{folder} was made by another version of this package: delete it and index again")
    return IndexRecord(**record)


def write_record(folder: Path, record: IndexRecord) -> None:
    """Write the record of a new database atomically."""
    with replaced(folder / RECORD) as file:
        file.write(json.dumps({"version": VERSION, **asdict(record)}, indent=2).encode())


def refuse_other_options(database: Path, record: IndexRecord, wanted: dict[str, Any]) -> None:
    """Refuse options that differ from those in the record.

    Args:
        database: Folder of the database.
        record: Record of the database.
        wanted: Requested values, by field of the record.

    Raises:
        IndexMismatchError: If a value differs; the message shows both.
    """
    recorded = {name: getattr(record, name) for name in wanted}
    differing = [f"{name} {recorded[name]!r}, not {value!r}" for name, value in wanted.items() if recorded[name] != value]
    if differing:
        raise _mismatch(database, "; ".join(differing))


def _mismatch(folder: Path, used: str) -> IndexMismatchError:
    return IndexMismatchError(f"{folder} was made with {used}: use the same, or another --db")


class Store:
    """The table of passages and their vectors."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        """Open the table, or create it."""
        arrow = require("pyarrow", "search", "mlx-qwen index")
        fields = [(name, arrow.string()) for name in ("file", "digest", "text")]
        fields += [(name, arrow.int32()) for name in ("start_line", "end_line", "page", "indent")]
        schema = arrow.schema([*fields, ("vector", arrow.list_(arrow.float32(), dimensions))])
        database = require("lancedb", "search", "mlx-qwen index").connect(folder)
        self._table = database.create_table(TABLE, schema=schema, exist_ok=True)

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def digests(self) -> dict[str, str]:
        """Return the content hash of every indexed file, by path."""
        rows = self._table.search().select(["file", "digest"]).to_list()
        return {row["file"]: row["digest"] for row in rows}

    def vectors(self, files: Sequence[str]) -> dict[str, Any]:
        """Return the vectors of all passages in the given files, by text."""
        if not files:
            return {}
        rows = self._table.search().where(_among(files)).select(["text", "vector"]).to_list()
        return {row["text"]: row["vector"] for row in rows}

    def replace(self, files: Sequence[str], rows: list[dict[str, Any]]) -> None:
        """Replace all rows of the given files."""
        if files:
            self._table.delete(_among(files))
        if rows:
            self._table.add(rows)

    def tidy(self) -> None:
        """Merge small fragments, and delete rows that were replaced long enough ago for no reader to need them."""
        self._table.optimize(cleanup_older_than=timedelta(hours=1))

    def nearest(self, vector: Any, count: int) -> list[dict[str, Any]]:
        """Return the nearest passages, each with its cosine similarity as ``score``."""
        found = self._table.search(vector, vector_column_name="vector").distance_type("cosine").limit(count).to_list()
        return [row | {"score": 1 - row["_distance"]} for row in found]


def _among(files: Iterable[str]) -> str:
    return "file IN ({})".format(", ".join("'" + file.replace("'", "''") + "'" for file in files))


def embeddings_for(
    database: Path,
    *,
    model: str | None = None,
    revision: str | None = None,
    dimensions: int | None = None,
    instruction: str | None = None,
    cache_dir: Path | None = None,
    show_progress: bool = False,
) -> MLXQwenEmbeddings:
    """Return embeddings that fit a database.

    Args:
        database: Folder of the database, which need not exist yet.
        model: Alias, Hub name or local folder. None takes the database's model, or the default for a new database.
        revision: Branch, tag or commit on the Hub. None takes the database's.
        dimensions: Width of the vectors. None takes the database's, or the full width for a new database.
        instruction: Instruction before each question. None takes the database's, or the model's own for a new database.
        cache_dir: Folder for downloaded models; None is the Hugging Face cache.
        show_progress: Whether to draw a progress bar over documents.

    Raises:
        IndexMismatchError: If the database was made with another model.
        UnknownModelError: If the model name is unknown.
        ModelLoadError: If the model cannot be found or read.
    """
    record = read_record(database)
    if record is not None:
        model = model or record.model
        if revision is None and not resolve(model).local:
            revision = record.revision
    if cache_dir is not None:
        get_engine(model, revision=revision, cache_dir=cache_dir)  # the embeddings below share this engine
    if record is not None:
        # Read width and instruction after the check: they mean nothing for another model.
        refuse_other_model(database, record, MLXQwenEmbeddings(model, revision=revision))
        dimensions = record.dimensions if dimensions is None else dimensions
        instruction = record.instruction if instruction is None else instruction
    return MLXQwenEmbeddings(
        model,
        revision=revision,
        dimensions=dimensions,
        query_instruction=instruction,
        show_progress=show_progress,
        **record.options if record else {},
    )


def shaping_fields(embeddings: MLXQwenEmbeddings) -> dict[str, Any]:
    """Return the fields that shape the vectors of passages and differ from their defaults, except ``dimensions``."""
    names = {"instruction": "document_instruction"}
    options = embeddings.vector_options("document")
    return {names.get(name, name): value for name, value in options.items() if name != "dimensions"}


def refuse_other_model(database: Path, record: IndexRecord, embeddings: MLXQwenEmbeddings) -> None:
    """Refuse a model that is not the database's: by its name before it is downloaded, otherwise by its content.

    Args:
        database: Folder of the database.
        record: Record of the database.
        embeddings: The embeddings to be used with it.

    Raises:
        IndexMismatchError: If the models differ; the message names both.
    """
    repository = _repository(embeddings.model)
    another = f"the model {record.model!r}, not {embeddings.model!r}"
    if repository is not None and repository != _repository(record.model):
        raise _mismatch(database, another)
    engine = embeddings.engine
    if engine.fingerprint == record.fingerprint:
        return
    if repository is not None and record.revision not in {None, engine.revision}:
        raise _mismatch(database, f"the model {record.model!r} at revision {record.revision!r}, not {engine.revision!r}")
    if embeddings.model != record.model:
        raise _mismatch(database, another)
    raise _mismatch(database, f"the model {record.model!r}, whose files were different then")


def _repository(model: str) -> str | None:
    """Return a model's name on the Hub; None for a local folder or file, which only its content identifies."""
    try:
        spec = resolve(model)
    except UnknownModelError:  # its folder was deleted
        return None
    return None if spec.local else spec.source.partition(":")[0]
