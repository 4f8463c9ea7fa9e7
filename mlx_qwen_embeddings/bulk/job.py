"""A bulk job: it embeds rows in parts, and the same call continues a run that was killed.

The manifest records what a run was started with. Parts made under another manifest are never mixed in.
"""

import fcntl
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from numpy.typing import NDArray

from mlx_qwen_embeddings._files import replaced
from mlx_qwen_embeddings.bulk.parquet import Corpus
from mlx_qwen_embeddings.bulk.sources import Source
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.options import EmbedOptions, key_values
from mlx_qwen_embeddings.prompts import Role

MANIFEST, LOCK = "manifest.json", "lock"

VERSION = 2
"""Version of the format of parts and manifest."""


class ModelStamp(NamedTuple):
    """What identifies a model's vectors, and their full width."""

    fingerprint: str
    device: str
    dtype: str
    dimensions: int

    @classmethod
    def of(cls, engine: EmbeddingEngine) -> Self:
        """Open the engine's model, without its weights, and return its stamp."""
        facts = engine.facts
        return cls(engine.fingerprint, facts.device, facts.dtype, facts.dimensions)


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """What to embed and where to write it. Each part is a file with a fixed range of rows.

    Attributes:
        source: The rows to embed.
        fingerprint: Fingerprint of the source when the job was made.
        rows: Number of rows.
        part_rows: Rows in each part; the last part may have fewer.
        role: Whether the texts are queries or documents.
        vector_column: Name of the column of vectors in the output.
        options: Options for each call to the engine.
        folder: Where the parts go.
    """

    suffix: ClassVar[str]

    source: Source | Corpus
    fingerprint: str
    rows: int
    part_rows: int
    role: Role
    vector_column: str
    options: EmbedOptions
    folder: Path

    @property
    def state(self) -> Path:
        """Folder of the manifest and the lock."""
        return self.folder

    @property
    def count(self) -> int:
        """Number of parts."""
        return -(-self.rows // self.part_rows)

    def size(self, number: int) -> int:
        """Return the number of rows in a part."""
        return min(self.part_rows, self.rows - number * self.part_rows)

    def path(self, number: int) -> Path:
        """Return the path of a part."""
        return self.folder / f"part-{number:08d}{self.suffix}"

    def parts(self) -> set[Path]:
        """Return the files of all parts, complete or not."""
        return set(self.folder.glob(f"part-*{self.suffix}"))

    def missing(self) -> list[int]:
        """Return the numbers of the parts whose file is absent or incomplete."""
        parts = self.parts()
        return [n for n in range(self.count) if self.path(n) not in parts or self.rows_in(n) != self.size(n)]

    def manifest(self, model: ModelStamp) -> dict[str, Any]:
        """Return every value that shapes the output. Parts made with other values do not belong to this job."""
        made_with = {
            "version": VERSION,
            "source": self.fingerprint,
            "rows": self.rows,
            "part_rows": self.part_rows,
            "column": self.source.column,
            "vector_column": self.vector_column,
            "model": model.fingerprint,
            "device": model.device,
            "dtype": model.dtype,
            "role": self.role,
        }
        shaping = key_values(self.options, "computed", "returned", "refused")
        if self.options.truncate == "error":
            shaping.pop("max_length", None)  # nothing was cut, so a run with a higher limit may continue this one
        return made_with | shaping

    def clear(self) -> None:
        """Remove all parts, complete or not."""
        for path in self.parts():
            path.unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove the temporary files of a killed run."""
        for path in self.state.glob("*.tmp"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the parts, then the manifest: if this is killed in between, the next run can still continue."""
        self.clear()
        (self.state / LOCK).unlink(missing_ok=True)
        (self.state / MANIFEST).unlink(missing_ok=True)
        with suppress(OSError):  # another process may just have put its lock there
            self.state.rmdir()

    @abstractmethod
    def check_output(self) -> None:
        """Raise ``FileExistsError`` when the output would replace files that are not this job's."""

    @abstractmethod
    def rows_in(self, number: int) -> int | None:
        """Return the number of rows in a part's file; None when it cannot be read."""

    def finish(self, model: ModelStamp) -> None:  # noqa: ARG002 - a FileJob needs it
        """Remove the temporary files of dead workers. A subclass may build its output here."""
        self.sweep()

    def deliver(self) -> None:
        """Remove the lock. A subclass may move its output into place here; after a kill, the next run calls this again."""
        (self.state / LOCK).unlink(missing_ok=True)


def run(job: Job, model: ModelStamp, embed: Callable[[Sequence[int]], Iterator[int]], *, restart: bool) -> int:
    """Embed the missing parts, finish the job, and return the number of rows that an earlier run had embedded.

    Args:
        job: What to do.
        model: Stamp of the model that ``embed`` uses.
        embed: Embeds and writes the given parts, and yields the number of rows of each.
        restart: Whether to discard what an earlier run has done.

    Raises:
        ValueError: When an earlier run was started with other values, or the source changes during this one.
        FileExistsError: See ``Job.check_output``.
        OSError: When another process works on the same output.
    """
    manifest, is_new = job.manifest(model), not job.folder.exists()
    with locked(job.state):
        found = None if restart else read_manifest(job.state)
        if found and found["job"] != manifest:
            differing = [name for name in found["job"] | manifest if found["job"].get(name) != manifest.get(name)]
            raise ValueError(
                f"{job.folder} holds the parts of a run with a different {', '.join(differing)}: "
                "repeat that run to continue it, or pass restart=True (--restart) to discard its parts"
            )
        finished = bool(found and found["finished"])
        if not finished:
            job.check_output()
        if not found:
            job.clear()
            _write_manifest(job.state, manifest, finished=False)
        job.sweep()
        missing = job.missing()
        earlier = job.rows - sum(map(job.size, missing))
        if missing or not finished:
            try:
                with progress_bar(job.rows, earlier, show=job.options.show_progress) as bar:
                    for rows in embed(missing) if missing else ():
                        bar.update(rows)
            except BaseException:
                if not job.parts():  # a run that finished no part leaves nothing behind
                    job.remove()
                    if is_new:
                        with suppress(OSError):  # by now it may hold other files
                            job.folder.rmdir()
                raise
            if job.source.fingerprint() != job.fingerprint:
                remedy = "run it again with restart=True (--restart)"
                raise ValueError(f"{job.source.name} was changed while it was embedded: {remedy}")
            job.finish(model)
            _write_manifest(job.state, manifest, finished=True)
        job.deliver()
    return earlier


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder, and create it if necessary. Raise ``OSError`` when another process holds the lock.

    The lock is released however the process ends.
    """
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OSError(f"another process is at work in {folder}: wait for it, or choose another output") from error
            # The previous holder may just have removed the file; then this lock excludes nobody.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield
                return


def read_manifest(state: Path) -> dict[str, Any] | None:
    """Return the manifest: "job", which the run was started with, and "finished". None when there is no manifest."""
    path = state / MANIFEST
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _write_manifest(state: Path, job: dict[str, Any], *, finished: bool) -> None:
    with replaced(state / MANIFEST) as file:
        file.write(json.dumps({"finished": finished, "job": job}, indent=2).encode())


def embed(engine: EmbeddingEngine, texts: list[str], role: Role, options: EmbedOptions) -> NDArray[Any]:
    """Embed texts as queries or documents, without a progress bar."""
    call: Any = asdict(replace(options, show_progress=False))
    return engine.embed_queries(texts, **call) if role == "query" else engine.embed_documents(texts, **call)


def embed_blocks(
    engine: EmbeddingEngine, texts: Iterator[str], size: int, role: Role, options: EmbedOptions
) -> Iterator[NDArray[Any]]:
    """Embed any number of texts, ``size`` at a time."""
    if role == "document":
        call: Any = asdict(replace(options, show_progress=False))
        yield from engine.stream_documents(texts, block_size=size, **call)
        return
    while block := list(islice(texts, size)):
        yield embed(engine, block, role, options)


def progress_bar(total: int, done: int, *, show: bool) -> Any:
    """Return a progress bar that estimates the time left from the rows of this run only."""
    from tqdm.auto import tqdm  # noqa: PLC0415 - importing the package does not need it

    return tqdm(total=total, initial=done, desc="Embedding", unit="text", disable=not show, smoothing=0.1)
