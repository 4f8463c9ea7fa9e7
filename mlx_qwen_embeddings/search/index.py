"""Bring a database up to date with a folder, reading and embedding only what changed, and search it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import file_digest
from mlx_qwen_embeddings._html import NotebookTable, Table
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.search.database import (
    IndexRecord,
    Store,
    embeddings_for,
    read_record,
    refuse_other_model,
    refuse_other_options,
    shaping_fields,
    write_record,
)
from mlx_qwen_embeddings.search.passages import Passage, Splitter, find_files


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        score: Cosine between passage and question.
        file: Path of its file.
        start_line: Its first line, from 1; in a PDF, on its page.
        end_line: Its last line.
        page: Page of a PDF, from 1; 0 in other files.
        indent: Columns before the passage on its first line.
        text: The passage.
    """

    score: float
    file: str
    start_line: int
    end_line: int
    page: int
    indent: int
    text: str


def search_folder(
    question: str,
    database: Path,
    *,
    count: int = 5,
    model: str | None = None,
    instruction: str | None = None,
    cache_dir: Path | None = None,
) -> list[Hit]:
    """Return the passages of a database that are nearest to a question, nearest first.

    Model, revision, dimensions and instruction are those that the database was made with.

    Args:
        question: The question, in words.
        database: Folder of the database.
        count: Most passages to return.
        model: None takes the database's model; another name must mean the same model.
        instruction: None takes the database's; another one is refused.
        cache_dir: Folder of downloaded models; None is the Hugging Face cache.

    Raises:
        FileNotFoundError: If there is no database.
        IndexMismatchError: If the model differs or has changed.
    """
    record = read_record(database)
    if record is None:
        message = f"there is no index in {database}: make it with mlx-qwen index FOLDER --db {database}"
        raise FileNotFoundError(message)
    if instruction is not None:
        refuse_other_options(database, record, {"instruction": instruction})
    embeddings = embeddings_for(database, model=model, cache_dir=cache_dir)
    rows = Store(database, record.dimensions).nearest(embeddings.embed_query(question), count)
    return [Hit(**{name: row[name] for name in Hit.__slots__}) for row in rows]


BLOCK_PASSAGES = 512
"""Passages that are embedded and stored together; a killed run loses at most these."""

CHUNK_TOKENS, OVERLAP = 256, 32

COUNTS_KEPT = 16_384
"""Size of the cache of token counts: the same words come up again and again."""


@dataclass(frozen=True, slots=True)
class IndexReport(NotebookTable):
    """What a run did.

    Attributes:
        files: Number of files found.
        changed: How many of them were new or had changed.
        removed: Number of deleted files, whose passages were removed.
        passages: Passages in the database now.
        embedded: How many of them this run embedded.
        skipped: Files that could not be read, with the reason; the database holds nothing of them.
    """

    files: int
    changed: int
    removed: int
    passages: int
    embedded: int
    skipped: tuple[str, ...]

    def _table(self) -> Table:
        facts: dict[str, Any] = {
            "files": f"{self.files:,}, {self.changed:,} of them new or changed",
            "removed": self.removed,
        }
        facts |= {"passages": self.passages, "embedded now": self.embedded}
        skipped = {"skipped": f"{len(self.skipped):,}, the first: {self.skipped[0]}"} if self.skipped else {}
        return "Index", facts | skipped


def index_folder(
    path: Path,
    database: Path,
    *,
    embeddings: MLXQwenEmbeddings,
    pattern: str | None = None,
    limit: int | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    overlap: int = OVERLAP,
) -> IndexReport:
    """Index a folder or a file; one database may hold several.

    Args:
        path: Folder or file.
        database: Folder of the database; created if missing.
        embeddings: Embeddings to use; ``query_instruction`` is for questions. ``embeddings_for`` returns those of a
            database.
        pattern: Which files to take, see ``find_files``.
        limit: Most files; None takes all.
        chunk_tokens: Most tokens of a passage.
        overlap: Most tokens shared by neighbouring passages.

    Raises:
        IndexMismatchError: If the database was made with another model or other options.
        FileNotFoundError: If ``path`` does not exist.
        MissingExtraError: If the extra ``search`` is not installed.
    """
    if not 0 <= overlap < chunk_tokens:
        message = f"overlap={overlap} has to be less than chunk_tokens={chunk_tokens}"
        raise ValueError(message)
    files = [file for file in find_files(path, pattern, limit) if not file.is_relative_to(database.resolve())]
    recorded = read_record(database)
    if recorded is not None:
        refuse_other_model(database, recorded, embeddings)
    engine = embeddings.engine
    record = IndexRecord(
        model=embeddings.model,
        revision=engine.revision,
        fingerprint=engine.fingerprint,
        dimensions=embeddings.dimensions or engine.dimensions,
        instruction=embeddings.query_instruction,
        chunk_tokens=chunk_tokens,
        overlap=overlap,
        options=shaping_fields(embeddings),
    )
    store = _open(database, recorded, record)
    before = store.digests()
    skipped: dict[str, str] = {}
    now = _digests(files, skipped)
    changed = [file for file, content in now.items() if before.get(file) != content]
    gone = [file for file in before if file not in skipped and _is_gone(Path(file), path.resolve())]
    store.replace(gone, [])
    read = embedded = 0
    for block in _blocks(changed, _splitter(engine, chunk_tokens, overlap), skipped):
        read += sum(bool(passages) for _, passages in block)  # an empty file leaves no row
        embedded += _store(block, now, store, embeddings)
    stale = [file for file in skipped if file in before]
    store.replace(stale, [])
    if changed or gone or stale:
        store.tidy()
    return IndexReport(len(files), read, len(gone), len(store), embedded, tuple(skipped.values()))


def _open(database: Path, recorded: IndexRecord | None, record: IndexRecord) -> Store:
    if recorded is not None:
        of_the_model = {"model", "revision", "fingerprint"}
        options = {name: getattr(record, name) for name in IndexRecord.__slots__ if name not in of_the_model}
        refuse_other_options(database, recorded, options)
        return Store(database, record.dimensions)
    database.mkdir(parents=True, exist_ok=True)
    store = Store(database, record.dimensions)
    write_record(database, record)
    return store


def _digests(files: list[Path], skipped: dict[str, str]) -> dict[str, str]:
    found = {}
    for file in files:
        try:
            found[str(file)] = file_digest(file)
        except OSError as error:
            skipped[str(file)] = _reason(file, error)
    return found


def _reason(file: Path | str, error: OSError | ValueError) -> str:
    """Return why a file is skipped; an ``OSError`` does not always name the file."""
    return f"{file} cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def _is_gone(file: Path, root: Path) -> bool:
    try:
        file.stat()
    except OSError:  # deleted, or in a folder that can no longer be entered
        return file.is_relative_to(root)
    return False


def _splitter(engine: EmbeddingEngine, chunk_tokens: int, overlap: int) -> Splitter:
    """Return a splitter that counts without special tokens: it adds up counts of pieces, and a passage has them once."""
    special = engine.count_tokens([""])[0]

    @lru_cache(COUNTS_KEPT)
    def count(text: str) -> int:
        return engine.count_tokens([text])[0] - special

    size = max(1, chunk_tokens - special)
    return Splitter(count, size, min(overlap, size - 1))


Block = list[tuple[str, list[Passage]]]


def _blocks(files: list[str], splitter: Splitter, skipped: dict[str, str]) -> Iterator[Block]:
    block: Block = []
    for file in files:
        try:
            block.append((file, splitter.split(Path(file))))
        except (OSError, ValueError) as error:
            skipped[file] = _reason(file, error)
        if sum(len(passages) for _, passages in block) >= BLOCK_PASSAGES:
            yield block
            block = []
    if block:
        yield block


def _store(block: Block, digests: dict[str, str], store: Store, embeddings: MLXQwenEmbeddings) -> int:
    """Store the passages of some files, reusing known vectors, and return how many were embedded."""
    files = [file for file, _ in block]
    known = store.vectors(files)
    new = list(dict.fromkeys(passage.text for _, passages in block for passage in passages if passage.text not in known))
    known |= dict(zip(new, embeddings.embed_documents(new), strict=True))
    rows: list[dict[str, Any]] = [
        {
            "file": file,
            "digest": digests[file],
            "text": passage.text,
            "start_line": passage.start_line,
            "end_line": passage.end_line,
            "page": passage.page,
            "indent": passage.indent,
            "vector": known[passage.text],
        }
        for file, passages in block
        for passage in passages
    ]
    store.replace(files, rows)
    return len(new)
