"""``embed_parquet``: a corpus of Parquet in, a folder of Parquet out, here or on many machines."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Unpack

from mlx_qwen_embeddings._html import facts_table
from mlx_qwen_embeddings.bulk.computing import bar
from mlx_qwen_embeddings.bulk.corpus import Corpus, RangeReader, open_corpus
from mlx_qwen_embeddings.bulk.corpus_job import CorpusJob
from mlx_qwen_embeddings.bulk.job import refuse_other, shaping
from mlx_qwen_embeddings.bulk.parts import LOCK, locked, read_manifest, write_manifest
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions
from mlx_qwen_embeddings.prompts import Role

CORPUS_PART_ROWS = 1024
"""Rows a part: what the loss of a machine costs."""

VERSION = 1
"""Of the output's form."""


class ModelIdentity(NamedTuple):
    """What tells one model's vectors from another's, and their full width."""

    fingerprint: str
    device: str
    dtype: str
    dimensions: int


class Runner(Protocol):
    """Who computes parts."""

    def identity(self) -> ModelIdentity:
        """Open the model."""

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Do the parts, in any order, and give the rows of each as it is done."""


class Here:
    """Computes in this process."""

    def __init__(self, engine: EmbeddingEngine) -> None:
        """Say with which engine."""
        self._engine = engine

    def identity(self) -> ModelIdentity:
        """Open the model."""
        facts = self._engine.facts
        return ModelIdentity(self._engine.fingerprint, facts.device, facts.dtype, facts.dimensions)

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Do the parts one after the other."""
        reader = RangeReader(job.corpus)
        for number in missing:
            yield job.write(number, self._engine, reader)


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """What was done.

    Attributes:
        folder: Where the parts are.
        parts: How many there are.
        rows: Rows in them.
        resumed: Those of them that an earlier run had embedded.
        dimensions: Width of a full vector, or of the leading dimensions that were kept.
        seconds: How long this run took.
    """

    folder: Path
    parts: int
    rows: int
    resumed: int
    dimensions: int
    seconds: float

    def _repr_html_(self) -> str:
        facts = {"parts": self.parts, "rows": self.rows, "of an earlier run": self.resumed, "dimensions": self.dimensions}
        return facts_table(str(self.folder), facts | {"time": f"{self.seconds:.2f} s"})


def embed_parquet(
    source: str | Path,
    folder: str | Path,
    *,
    model: str | EmbeddingEngine | None = None,
    runner: Runner | None = None,
    column: str = "text",
    role: Role = "document",
    vector_column: str = "embedding",
    part_rows: int = CORPUS_PART_ROWS,
    restart: bool = False,
    **options: Unpack[CallOptions],
) -> CorpusReport:
    """Embed the rows of Parquet files into a folder of Parquet files, ``part_rows`` rows each, with all their columns.

    Parts in the order of their names hold the rows in the order of the source. Each appears whole or not at all, so a run
    that was killed, whoever ran it, is continued by the same call, and a finished one is found to be finished.

    Args:
        source: A Parquet file, or a folder of them, read in the order of their names.
        folder: Where the parts go; a new or empty folder, or that of an earlier run.
        model: An engine, or what ``get_engine`` takes; for a run in this process.
        runner: Who computes; None does it in this process. ``mlx_qwen_embeddings.ray`` has one for a cluster.
        column: Which column holds the texts.
        role: Whether they are documents or queries.
        vector_column: Name of the vectors, which are lists of fixed size.
        part_rows: Rows a part.
        restart: Whether to drop what an earlier run has done.
        **options: See ``EmbedOptions``; ``timeout`` holds for each part, ``show_progress`` draws one bar for all.

    Raises:
        ValueError: When the source cannot be read, or the folder holds another job's parts; the message says what differs.
        FileExistsError: When the folder holds something else.
        OSError: When another process works at the same folder, or the disk is full; what was done is kept.
        MLXQwenEmbeddingsError: As the engine's methods.
    """
    began, checked = time.perf_counter(), EmbedOptions(**options)
    corpus = open_corpus(Path(source), column)
    _check(corpus, part_rows, vector_column)
    job = CorpusJob(corpus, Path(folder).absolute(), part_rows, role, vector_column, checked)
    _refuse_foreign(job)
    chosen = runner or Here(model if isinstance(model, EmbeddingEngine) else get_engine(model))
    identity, new = chosen.identity(), not job.folder.exists()
    with locked(job.state):
        done = _begin(job, _manifest(job, identity), restart=restart)
        missing = [] if done else job.missing()
        resumed = corpus.rows - sum(stop - start for start, stop in map(job.bounds, missing))
        try:
            with bar(corpus.rows, resumed, show=checked.show_progress) as shown:
                for rows in chosen.run(job, missing) if missing else ():
                    shown.update(rows)
        except BaseException:
            if not job.begun:
                job.forget(folder=new)  # a run that never got anywhere leaves nothing
            raise
        if open_corpus(Path(source), column).digest != corpus.digest:
            message = f"{source} was changed while it was embedded: run it again with restart=True (--restart)"
            raise ValueError(message)
        job.sweep()
        write_manifest(job.state, _manifest(job, identity), finished=True)
        (job.state / LOCK).unlink(missing_ok=True)
    width = checked.dimensions or identity.dimensions
    return CorpusReport(job.folder, job.count, corpus.rows, resumed, width, time.perf_counter() - began)


def _check(corpus: Corpus, part_rows: int, vector_column: str) -> None:
    if part_rows < 1:
        message = f"part_rows must be at least 1, got {part_rows}"
        raise ValueError(message)
    if vector_column in corpus.columns:
        message = f"{corpus.name} has a column {vector_column!r} already: give the vectors another name"
        raise ValueError(message)


def _refuse_foreign(job: CorpusJob) -> None:
    if not job.state.is_dir() and job.folder.exists() and any(job.folder.iterdir()):
        message = f"{job.folder} holds files that are not of such a job: name a new or empty folder"
        raise FileExistsError(message)


def _manifest(job: CorpusJob, identity: ModelIdentity) -> dict[str, Any]:
    """Give all that shapes the parts: with any other value, those of two runs would not go together."""
    return {
        "version": VERSION,
        "source": job.corpus.digest,
        "rows": job.corpus.rows,
        "part_rows": job.part_rows,
        "column": job.corpus.column,
        "vector_column": job.vector_column,
        "model": identity.fingerprint,
        "device": identity.device,
        "dtype": identity.dtype,
        "role": job.role,
        **shaping(job.options),
    }


def _begin(job: CorpusJob, manifest: dict[str, Any], *, restart: bool) -> bool:
    """Take up what an earlier run left; True when it left nothing to do."""
    found = read_manifest(job.state)
    if found and found["job"] != manifest and not restart:
        refuse_other(job.folder, found["job"], manifest)
    if found is None or restart:
        job.clear()
        write_manifest(job.state, manifest, finished=False)
        return False
    job.sweep()
    return bool(found["finished"]) and not job.missing()
