"""The database of an index: passages and vectors in LanceDB, and a record of how the vectors were made."""

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
class Made:
    """How the vectors of a database were made; one database holds vectors of one kind.

    Attributes:
        model: As it was named.
        revision: Commit on the Hub; None for a folder or a file of one's own, and for ``nano``.
        fingerprint: Of the model's content.
        dimensions: Width of the vectors.
        instruction: Before each question; None is the model's own.
        chunk_tokens: Most tokens of a passage.
        overlap: Tokens that passages share.
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


def read_record(folder: Path) -> Made | None:
    """Give how a database was made; None when there is none.

    Raises:
        IndexMismatchError: When it is of another version of this package.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record = json.loads(path.read_text("utf-8"))
    if record.pop("version", None) != VERSION:
        message = f"{folder} was made by another version of this package: delete it and index again"
        raise IndexMismatchError(message)
    return Made(**record)


def write_record(folder: Path, made: Made) -> None:
    """Say how a database is made, in one step."""
    with replaced(folder / RECORD) as file:
        file.write(json.dumps({"version": VERSION, **asdict(made)}, indent=2).encode())


def check(folder: Path, stored: Made, wanted: dict[str, Any]) -> None:
    """Refuse what does not go with the vectors that are there.

    Args:
        folder: Of the database.
        stored: How it was made.
        wanted: Fields that were asked for.

    Raises:
        IndexMismatchError: When one differs; the message says which was used.
    """
    stands = {name: getattr(stored, name) for name in wanted}
    differing = [f"{name} {stands[name]!r}, not {value!r}" for name, value in wanted.items() if stands[name] != value]
    if differing:
        raise mismatch(folder, "; ".join(differing))


def mismatch(folder: Path, used: str) -> IndexMismatchError:
    """Make the error that says what a database was made with, and what to do."""
    return IndexMismatchError(f"{folder} was made with {used}: use the same, or another --db")


class Store:
    """The table of passages."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        """Open it, or make it."""
        arrow = require("pyarrow", "search", "mlx-qwen index")
        fields = [(name, arrow.string()) for name in ("file", "digest", "text")]
        fields += [(name, arrow.int32()) for name in ("start_line", "end_line", "page", "indent")]
        schema = arrow.schema([*fields, ("vector", arrow.list_(arrow.float32(), dimensions))])
        database = require("lancedb", "search", "mlx-qwen index").connect(folder)
        self._table = database.create_table(TABLE, schema=schema, exist_ok=True)

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def digests(self) -> dict[str, str]:
        """Give the hash of every file's content as it was indexed."""
        rows = self._table.search().select(["file", "digest"]).to_list()
        return {row["file"]: row["digest"] for row in rows}

    def vectors(self, files: Sequence[str]) -> dict[str, Any]:
        """Give the vectors of all passages of some files, by text."""
        if not files:
            return {}
        rows = self._table.search().where(_among(files)).select(["text", "vector"]).to_list()
        return {row["text"]: row["vector"] for row in rows}

    def replace(self, files: Sequence[str], rows: list[dict[str, Any]]) -> None:
        """Put rows in the place of all that was there of some files."""
        if files:
            self._table.delete(_among(files))
        if rows:
            self._table.add(rows)

    def tidy(self) -> None:
        """Join small pieces, and give back the room of what was replaced long enough ago that nobody reads it still."""
        self._table.optimize(cleanup_older_than=timedelta(hours=1))

    def nearest(self, vector: Any, count: int) -> list[dict[str, Any]]:
        """Give the nearest passages, each with its cosine as ``score``."""
        found = self._table.search(vector, vector_column_name="vector").distance_type("cosine").limit(count).to_list()
        return [row | {"score": 1 - row["_distance"]} for row in found]


def _among(files: Iterable[str]) -> str:
    return f"file IN ({', '.join(_quoted(file) for file in files)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
    """Make the embeddings of a database.

    Args:
        database: Folder of the database, which need not be there yet.
        model: Alias, Hub name or local folder; None takes the database's, and for a new one the default.
        revision: Branch, tag or commit on the Hub; None takes the database's.
        dimensions: None takes the database's, and for a new one all.
        instruction: Before each question; None takes the database's, and for a new one the model's own.
        cache_dir: Folder of downloaded models; None is the Hugging Face cache.
        show_progress: Whether to draw a progress bar over documents.

    Raises:
        IndexMismatchError: When the database was made with another model.
        UnknownModelError: When the name means nothing.
        ModelLoadError: When the model cannot be had.
    """
    made = read_record(database)
    if made is not None:
        model = model or made.model
        if revision is None and not resolve(model).local:
            revision = made.revision
    if cache_dir is not None:
        get_engine(model, revision=revision, cache_dir=cache_dir)  # shared: the embeddings below get the same one
    if made is not None:
        # Its width and its instruction come after the check: of another model they say nothing.
        check_model(database, made, MLXQwenEmbeddings(model, revision=revision))
        dimensions = made.dimensions if dimensions is None else dimensions
        instruction = made.instruction if instruction is None else instruction
    return MLXQwenEmbeddings(
        model,
        revision=revision,
        dimensions=dimensions,
        query_instruction=instruction,
        show_progress=show_progress,
        **made.options if made else {},
    )


def shaping_fields(embeddings: MLXQwenEmbeddings) -> dict[str, Any]:
    """Return the fields that shape the vectors of passages and differ from their defaults, except ``dimensions``."""
    names = {"instruction": "document_instruction"}
    options = embeddings.vector_options("document")
    return {names.get(name, name): value for name, value in options.items() if name != "dimensions"}


def check_model(database: Path, made: Made, embeddings: MLXQwenEmbeddings) -> None:
    """Refuse another model than the database's: by its name, before it is downloaded, or else by its content.

    Args:
        database: Folder of the database.
        made: How it was made.
        embeddings: What is to be used.

    Raises:
        IndexMismatchError: When it is another; the message says which was used.
    """
    repository = _repository(embeddings.model)
    another = f"the model {made.model!r}, not {embeddings.model!r}"
    if repository is not None and repository != _repository(made.model):
        raise mismatch(database, another)
    engine = embeddings.engine
    if engine.fingerprint == made.fingerprint:
        return
    if repository is not None and made.revision not in {None, engine.revision}:
        raise mismatch(database, f"the model {made.model!r} at revision {made.revision!r}, not {engine.revision!r}")
    if embeddings.model != made.model:
        raise mismatch(database, another)
    raise mismatch(database, f"the model {made.model!r} of another content")


def _repository(model: str) -> str | None:
    """Give a model's name on the Hub; None for a folder or a file, which may hold the same content as another."""
    try:
        spec = resolve(model)
    except UnknownModelError:  # its folder is gone
        return None
    return None if spec.local else spec.source.partition(":")[0]
