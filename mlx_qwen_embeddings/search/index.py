"""Bring a database up to date with a folder: only what changed is read, cut and embedded."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import file_digest
from mlx_qwen_embeddings._html import facts_table
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.search.database import (
    Made,
    Store,
    check,
    check_model,
    embeddings_for,
    read_record,
    shaping_fields,
    write_record,
)
from mlx_qwen_embeddings.search.passages import Passage, Splitter, find


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        score: Cosine to the question.
        file: Where it is from.
        start_line: Its first line, in a PDF of the page.
        end_line: Its last line.
        page: Of a PDF, from 1; 0 in other files.
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
    """Find the passages of a database that are nearest to a question, nearest first.

    The model, its revision, the dimensions and the instruction are those that the database was made with.

    Args:
        question: In words.
        database: Folder of the database.
        count: At most so many.
        model: None takes the database's; another name has to mean the same model.
        instruction: None takes the database's; another one is refused.
        cache_dir: Folder of downloaded models; None is the Hugging Face cache.

    Raises:
        FileNotFoundError: When there is no database.
        IndexMismatchError: When the model is another one, or has changed.
    """
    made = read_record(database)
    if made is None:
        message = f"there is no index in {database}: make it with mlx-qwen index FOLDER --db {database}"
        raise FileNotFoundError(message)
    if instruction is not None:
        check(database, made, {"instruction": instruction})
    embeddings = embeddings_for(database, model=model, cache_dir=cache_dir)
    rows = Store(database, made.dimensions).nearest(embeddings.embed_query(question), count)
    return [Hit(**{name: row[name] for name in Hit.__slots__}) for row in rows]


BLOCK_PASSAGES = 512
"""Passages that are embedded and stored together: what a kill can cost."""

CHUNK_TOKENS, OVERLAP = 256, 32

COUNTS_KEPT = 16_384
"""Pieces whose tokens need not be counted again: most are words that come back."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What was done.

    Attributes:
        files: Files found.
        changed: Those of them that were new or had changed.
        removed: Files that are no longer there, and now not in the database either.
        passages: Passages in the database.
        embedded: Those of them that were embedded now.
        skipped: Files that could not be read, with the reason; nothing of them is in the database.
    """

    files: int
    changed: int
    removed: int
    passages: int
    embedded: int
    skipped: tuple[str, ...]

    def _repr_html_(self) -> str:
        facts: dict[str, Any] = {
            "files": f"{self.files:,}, {self.changed:,} of them new or changed",
            "removed": self.removed,
        }
        facts |= {"passages": self.passages, "embedded now": self.embedded}
        skipped = {"skipped": f"{len(self.skipped):,}, the first: {self.skipped[0]}"} if self.skipped else {}
        return facts_table("Index", facts | skipped)


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
    """Index a folder, or a file; several of them may go into one database.

    Args:
        path: What to index.
        database: Folder of the database; made if need be.
        embeddings: What embeds; its ``query_instruction`` is for questions. ``embeddings_for`` gives those of a database.
        pattern: See ``find``.
        limit: At most so many files.
        chunk_tokens: Most tokens of a passage.
        overlap: Tokens that passages share, at most.

    Raises:
        IndexMismatchError: When the database was made otherwise.
        FileNotFoundError: When there is nothing at ``path``.
        MissingExtraError: When the extra ``search`` is not installed.
    """
    if not 0 <= overlap < chunk_tokens:
        message = f"overlap={overlap} has to be less than chunk_tokens={chunk_tokens}"
        raise ValueError(message)
    files = [file for file in find(path, pattern, limit) if not file.is_relative_to(database.resolve())]
    stored = read_record(database)
    if stored is not None:
        check_model(database, stored, embeddings)
    engine = embeddings.engine
    made = Made(
        model=embeddings.model,
        revision=engine.revision,
        fingerprint=engine.fingerprint,
        dimensions=embeddings.dimensions or engine.dimensions,
        instruction=embeddings.query_instruction,
        chunk_tokens=chunk_tokens,
        overlap=overlap,
        options=shaping_fields(embeddings),
    )
    store = _open(database, stored, made)
    before = store.digests()
    skipped: dict[str, str] = {}
    now = _digests(files, skipped)
    changed = [file for file, content in now.items() if before.get(file) != content]
    gone = [file for file in before if file not in skipped and _is_gone(Path(file), path.resolve())]
    store.replace(gone, [])
    read = embedded = 0
    for block in _blocks(changed, _splitter(engine, chunk_tokens, overlap), skipped):
        read += sum(bool(passages) for _, passages in block)  # an empty file has nothing to be remembered by
        embedded += _store(block, now, store, embeddings)
    stale = [file for file in skipped if file in before]
    store.replace(stale, [])
    if changed or gone or stale:
        store.tidy()
    return IndexReport(len(files), read, len(gone), len(store), embedded, tuple(skipped.values()))


def _open(database: Path, stored: Made | None, made: Made) -> Store:
    if stored is not None:
        of_the_model = {"model", "revision", "fingerprint"}
        check(database, stored, {name: getattr(made, name) for name in Made.__slots__ if name not in of_the_model})
        return Store(database, made.dimensions)
    database.mkdir(parents=True, exist_ok=True)
    store = Store(database, made.dimensions)
    write_record(database, made)
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
    """Say why a file is left out; an ``OSError`` does not always name it."""
    return f"{file} cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def _is_gone(file: Path, root: Path) -> bool:
    try:
        file.stat()
    except OSError:  # it is not there, or in a folder that cannot be entered any more
        return file.is_relative_to(root)
    return False


def _splitter(engine: EmbeddingEngine, chunk_tokens: int, overlap: int) -> Splitter:
    """Count without special tokens: a passage has them once, and the splitter adds up the counts of its pieces."""
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
    """Store files' passages; what was in them before keeps its vector. Gives the number of those embedded."""
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
