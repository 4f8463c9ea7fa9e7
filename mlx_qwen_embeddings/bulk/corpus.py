"""``embed_parquet``: Parquet files in, a folder of Parquet files out, here or on many machines."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, Unpack

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings._files import move, sync
from mlx_qwen_embeddings._html import NotebookTable, Table
from mlx_qwen_embeddings.bulk.job import Job, ModelStamp, embed, run
from mlx_qwen_embeddings.bulk.parquet import Corpus, RangeReader, as_lists, open_corpus
from mlx_qwen_embeddings.bulk.targets import check_free
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions, whole_number
from mlx_qwen_embeddings.prompts import Role

CORPUS_PART_ROWS = 1024
"""Rows in a part, which is what the loss of a machine costs."""

STATE = "_job"
"""Folder in the output for what is not output. Readers of Parquet skip names that begin with an underscore."""


@dataclass(frozen=True, kw_only=True)
class CorpusJob(Job):
    """Parts that are the output. The job can be pickled, and anybody who has it can do any part, in any order."""

    suffix = ".parquet"

    source: Corpus

    @property
    def state(self) -> Path:
        """Folder of the manifest, the lock, and parts that are being written."""
        return self.folder / STATE

    def check_output(self) -> None:
        """Raise ``FileExistsError`` when the folder holds something else."""
        if not self.state.is_dir() and self.folder.exists() and any(self.folder.iterdir()):
            message = f"{self.folder} holds files that are not from a bulk job: choose a new or empty folder"
            raise FileExistsError(message)

    def rows_in(self, number: int) -> int | None:
        """Return the rows that the part's footer counts; None when it cannot be read."""
        arrow, parquet = require("pyarrow", "parquet", "Parquet"), require("pyarrow.parquet", "parquet", "Parquet")
        try:
            return int(parquet.read_metadata(self.path(number)).num_rows)
        except (OSError, arrow.ArrowException):
            return None

    def write(self, number: int, engine: EmbeddingEngine, reader: RangeReader) -> int:
        """Embed and write one part, and return its rows. The file appears whole or not at all, and is the same each time.

        Raises:
            ValueError: When a row has no text.
            MLXQwenEmbeddingsError: As the engine's methods; positions in the message count from the part's first row.
        """
        start, rows = number * self.part_rows, self.size(number)
        table = reader.table(start, start + rows)
        vectors = embed(engine, reader.texts(table, start), self.role, self.options)
        # Two may write the same part: a worker that was taken for dead, and the one that took its place.
        temporary = self.state / f"{self.path(number).name}.{uuid.uuid4().hex}.tmp"
        try:
            whole = table.append_column(self.vector_column, as_lists(vectors))
            require("pyarrow.parquet", "parquet", "Parquet").write_table(whole, temporary)
            sync(temporary)
            move(temporary, self.path(number))
        finally:
            temporary.unlink(missing_ok=True)
        return rows


class Runner(Protocol):
    """Where parts are computed."""

    def stamp(self) -> ModelStamp:
        """Open the model and return its stamp."""

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Embed and write the parts, in any order, and yield the rows of each when it is done."""


class LocalRunner:
    """Computes parts in this process, one after the other."""

    def __init__(self, engine: EmbeddingEngine) -> None:
        """Compute with this engine."""
        self._engine = engine

    def stamp(self) -> ModelStamp:
        """Open the model and return its stamp."""
        return ModelStamp.of(self._engine)

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Embed and write the parts in order, and yield the rows of each."""
        reader = RangeReader(job.source)
        for number in missing:
            yield job.write(number, self._engine, reader)


@dataclass(frozen=True, slots=True)
class CorpusReport(NotebookTable):
    """What was done.

    Attributes:
        folder: Where the parts are.
        parts: Number of parts.
        rows: Number of rows in them.
        resumed: How many of them an earlier run had embedded.
        dimensions: Width of the vectors that were computed; "binary" and "ubinary" pack eight into a byte.
        seconds: How long this run took.
    """

    folder: Path
    parts: int
    rows: int
    resumed: int
    dimensions: int
    seconds: float

    def _table(self) -> Table:
        facts = {"parts": self.parts, "rows": self.rows, "from an earlier run": self.resumed, "dimensions": self.dimensions}
        return str(self.folder), facts | {"time": f"{self.seconds:.2f} s"}


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
    """Embed the rows of Parquet files into a folder of Parquet files of ``part_rows`` rows each, with all columns.

    Parts in the order of their names hold the rows in the order of the source. Each appears whole or not at all. The same
    call continues a run that was killed, no matter who ran it, and finds out when nothing is left to do.

    Args:
        source: A Parquet file, or a folder of them, read in the order of their names.
        folder: Where the parts go: a new or empty folder, or that of an earlier run.
        model: An engine, or what ``get_engine`` takes; for a run in this process.
        runner: Where to compute; None computes in this process. ``mlx_qwen_embeddings.ray`` has a runner for a cluster.
        column: The column that holds the texts.
        role: Whether they are documents or queries.
        vector_column: Name of the vectors, which are lists of fixed size.
        part_rows: Rows in each part.
        restart: Whether to drop what an earlier run has done.
        **options: See ``EmbedOptions``; ``timeout`` holds for each part, ``show_progress`` draws one bar for the whole job.

    Raises:
        ValueError: When the source cannot be read, or an earlier run was started with other values; the message says which.
        FileExistsError: When the folder holds something else.
        OSError: When another process works on the same folder, or the disk is full; what was done is kept.
        MLXQwenEmbeddingsError: As the engine's methods.
    """
    began, checked, corpus = time.perf_counter(), EmbedOptions(**options), open_corpus(Path(source), column)
    check_free(vector_column, corpus.columns, corpus.name)
    path = Path(folder).absolute()
    job = CorpusJob(
        source=corpus,
        fingerprint=corpus.footers,
        rows=corpus.rows,
        part_rows=whole_number("part_rows", part_rows),
        role=role,
        vector_column=vector_column,
        options=checked,
        folder=path,
    )
    job.check_output()
    chosen = runner or LocalRunner(model if isinstance(model, EmbeddingEngine) else get_engine(model))
    stamp = chosen.stamp()
    resumed = run(job, stamp, partial(chosen.run, job), restart=restart)
    width = checked.dimensions or stamp.dimensions
    return CorpusReport(path, job.count, job.rows, resumed, width, time.perf_counter() - began)
