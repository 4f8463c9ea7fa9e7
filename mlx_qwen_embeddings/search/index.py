"""Update a database from a folder, embedding only what changed, and search it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

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
    """A passage that a search found.

    Attributes:
        score: Cosine similarity of passage and question.
        file: Path of the file.
        start_line: First line of the passage, counted from 1; in a PDF, on its page.
        end_line: Last line of the passage.
        page: Page of a PDF, counted from 1; 0 for other files.
        indent: Columns of indentation before the passage's first line.
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
        model: A name of the database's model; None takes the recorded name.
        instruction: Must equal the database's; None takes it.
        cache_dir: Folder for downloaded models; None is the Hugging Face cache.

    Raises:
        FileNotFoundError: If there is no database.
        IndexMismatchError: If the model differs or has changed.
    """
    record = read_record(database)
    if record is None:
        raise FileNotFoundError(f"there is no index in {database}: make it with mlx-qwen index FOLDER --db {database}")
    if instruction is not None:
        refuse_other_options(database, record, {"instruction": instruction})
    embeddings = embeddings_for(database, model=model, cache_dir=cache_dir)
    rows = Store(database, record.dimensions).nearest(embeddings.embed_query(question), count)
    return [Hit(**{name: row[name] for name in Hit.__slots__}) for row in rows]


BLOCK_PASSAGES = 512
"""About how many passages are embedded and stored together. A killed run loses at most one such block."""

CHUNK_TOKENS, OVERLAP = 256, 32

COUNTS_KEPT = 16_384
"""Size of the cache of token counts. The splitter counts the same pieces repeatedly."""


@dataclass(frozen=True, slots=True)
class IndexReport(NotebookTable):
    """The result of ``index_folder``.

    Attributes:
        files: Number of files found.
        changed: Number of files that were new or had changed.
        removed: Number of files that were deleted since the last run; their passages were removed.
        passages: Number of passages in the database now.
        embedded: Number of passages that this run embedded.
        skipped: One message for each file that could not be read. The database holds no passages of these files.
    """

    files: int
    changed: int
    removed: int
    passages: int
    embedded: int
    skipped: tuple[str, ...]

    def _table(self) -> Table:
        files = {"files": f"{self.files:,}, {self.changed:,} of them new or changed", "removed": self.removed}
        skipped = {"skipped": f"{len(self.skipped):,}, the first: {self.skipped[0]}"} if self.skipped else {}
        return "Index", files | {"passages": self.passages, "embedded now": self.embedded} | skipped


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
    """Index a folder or a file, reading and embedding only what changed. One database may hold several folders.

    Args:
        path: Folder or file.
        database: Folder of the database; created if missing.
        embeddings: Embeddings to use. ``embeddings_for`` returns those that fit an existing database.
        pattern: Which files to index, see ``find_files``.
        limit: Most files to index; None means all.
        chunk_tokens: Most tokens in a passage.
        overlap: Most tokens that neighbouring passages share.

    Raises:
        IndexMismatchError: If the database was made with another model or other options.
        FileNotFoundError: If ``path`` does not exist.
        MissingExtraError: If the extra ``search`` is not installed.
    """
    if not 0 <= overlap < chunk_tokens:
        raise ValueError(f"overlap={overlap} must be at least 0 and less than chunk_tokens={chunk_tokens}")
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
    """Return a message that names the file, which an ``OSError`` does not always do."""
    return f"{file} cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def _is_gone(file: Path, root: Path) -> bool:
    try:
        file.stat()
    except OSError:  # deleted, or in a folder that can no longer be entered
        return file.is_relative_to(root)
    return False


def _splitter(engine: EmbeddingEngine, chunk_tokens: int, overlap: int) -> Splitter:
    """Return a splitter that counts without special tokens.

    It adds up the counts of pieces, while a passage has its special tokens only once.
    """
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
    """Store the passages of some files, reusing the vectors of unchanged passages. Return how many were embedded."""
    files = [file for file, _ in block]
    known = store.vectors(files)
    new = list(dict.fromkeys(passage.text for _, passages in block for passage in passages if passage.text not in known))
    known |= dict(zip(new, embeddings.embed_documents(new), strict=True))
    rows = [
        asdict(passage) | {"file": file, "digest": digests[file], "vector": known[passage.text]}
        for file, passages in block
        for passage in passages
    ]
    store.replace(files, rows)
    return len(new)
