"""Bring a database up to date with a folder: only what changed is read, cut and embedded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.search.files import digest, find
from mlx_qwen_embeddings.search.passages import Passage, Splitter
from mlx_qwen_embeddings.search.store import Made, Store, check, read_record, write_record

BLOCK_PASSAGES = 512
"""Passages that are embedded and stored together: what a kill can cost."""

CHUNK_TOKENS, OVERLAP = 256, 32


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What was done.

    Attributes:
        files: Files found.
        changed: Those of them that were new or had changed.
        removed: Files that are no longer there, and now not in the database either.
        passages: Passages in the database.
        embedded: Those of them that were embedded now.
        skipped: Files that could not be read, with the reason.
    """

    files: int
    changed: int
    removed: int
    passages: int
    embedded: int
    skipped: tuple[str, ...]


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
        embeddings: What embeds; its ``query_instruction`` is for questions.
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
    engine = embeddings.engine
    made = Made(
        model=embeddings.model,
        revision=embeddings.revision,
        fingerprint=engine.fingerprint,
        dimensions=embeddings.dimensions or engine.dimensions,
        instruction=embeddings.query_instruction,
        chunk_tokens=chunk_tokens,
        overlap=overlap,
    )
    store = _open(database, made)
    before = store.digests()
    now = {str(file): digest(file) for file in files}
    changed = [file for file, content in now.items() if before.get(file) != content]
    gone = [file for file in before if _is_gone(Path(file), path.resolve())]
    store.replace(gone, [])
    splitter = Splitter(lambda text: engine.count_tokens([text])[0], chunk_tokens, overlap)
    skipped: list[str] = []
    read = embedded = 0
    for block in _blocks(changed, splitter, skipped):
        read += sum(bool(passages) for _, passages in block)  # an empty file has nothing to be remembered by
        embedded += _store(block, now, store, embeddings)
    if changed or gone:
        store.tidy()
    return IndexReport(len(files), read, len(gone), len(store), embedded, tuple(skipped))


def _open(database: Path, made: Made) -> Store:
    stored = read_record(database)
    if stored:
        wanted = {name: getattr(made, name) for name in Made.__slots__ if name != "model"}
        check(database, stored, wanted)
        return Store(database, made.dimensions)
    database.mkdir(parents=True, exist_ok=True)
    store = Store(database, made.dimensions)
    write_record(database, made)
    return store


def _is_gone(file: Path, root: Path) -> bool:
    return file.is_relative_to(root) and not file.exists()


Block = list[tuple[str, list[Passage]]]


def _blocks(files: list[str], splitter: Splitter, skipped: list[str]) -> Iterator[Block]:
    block: Block = []
    for file in files:
        try:
            block.append((file, splitter.split(Path(file))))
        except (OSError, ValueError) as error:
            skipped.append(str(error))
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
