"""``embed_parquet``: Parquet files in, a folder of Parquet files out, on one machine or many."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, Unpack

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings._files import move, sync
from mlx_qwen_embeddings._html import Table
from mlx_qwen_embeddings.bulk.file import BulkReport
from mlx_qwen_embeddings.bulk.job import Job, ModelStamp, embed, run
from mlx_qwen_embeddings.bulk.parquet import Corpus, RangeReader, as_lists, open_corpus
from mlx_qwen_embeddings.bulk.targets import check_free
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions, whole_number
from mlx_qwen_embeddings.prompts import Role

CORPUS_PART_ROWS = 1024
"""Rows in a part. A machine that dies loses the parts that it was working on."""

STATE = "_job"
"""Folder inside the output for the job's own files. Parquet readers skip names that begin with an underscore."""


@dataclass(frozen=True, kw_only=True)
class CorpusJob(Job):
    """A job whose parts are the output. It can be pickled; workers can write its parts in any order."""

    suffix = ".parquet"

    source: Corpus

    @property
    def state(self) -> Path:
        """Folder of the manifest, the lock and unfinished parts."""
        return self.folder / STATE

    def check_output(self) -> None:
        """Raise ``FileExistsError`` when the folder holds files of anything but a bulk job."""
        if not self.state.is_dir() and self.folder.exists() and any(self.folder.iterdir()):
            raise FileExistsError(f"{self.folder} holds files that are not from a bulk job: choose a new or empty folder")

    def rows_in(self, number: int) -> int | None:
        """Return the number of rows in the part's footer; None when it cannot be read."""
        arrow, parquet = require("pyarrow", "parquet", "Parquet"), require("pyarrow.parquet", "parquet", "Parquet")
        try:
            return int(parquet.read_metadata(self.path(number)).num_rows)
        except (OSError, arrow.ArrowException):
            return None

    def write(self, number: int, engine: EmbeddingEngine, reader: RangeReader) -> int:
        """Embed and write one part, and return its number of rows.

        The file appears whole or not at all. Writing it again gives the same file. Positions in the messages of the
        engine's errors count from the part's first row.
        """
        start, rows = number * self.part_rows, self.size(number)
        table = reader.table(start, start + rows)
        vectors = embed(engine, reader.texts(table, start), self.role, self.options)
        # Two workers may write the same part: one that was wrongly taken for dead, and its replacement.
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
    """Computes the parts of a job, in this process or elsewhere."""

    def stamp(self) -> ModelStamp:
        """Open the model and return its stamp."""

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Embed and write the missing parts in any order, and yield the number of rows of each finished part."""


@dataclass
class LocalRunner:
    """Computes parts in this process, one after the other."""

    engine: EmbeddingEngine

    def stamp(self) -> ModelStamp:
        """Open the model and return its stamp."""
        return ModelStamp.of(self.engine)

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Embed and write the missing parts in order, and yield the number of rows of each."""
        reader = RangeReader(job.source)
        for number in missing:
            yield job.write(number, self.engine, reader)


@dataclass(frozen=True, slots=True)
class CorpusReport(BulkReport):
    """The result of ``embed_parquet``: a ``BulkReport`` whose target is a folder of parts.

    Attributes:
        parts: Number of parts.
    """

    parts: int

    @property
    def folder(self) -> Path:
        """The folder of the parts, which is also the ``target``."""
        return self.target

    def _table(self) -> Table:
        caption, facts = super(CorpusReport, self)._table()  # slots make a new class, so super() alone fails
        return caption, {"parts": self.parts, **facts}


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
    """Embed the rows of Parquet files, and write them with all columns to a folder of Parquet files.

    Each output file is a part of ``part_rows`` rows, and appears whole or not at all. Sorted by name, the parts hold the
    rows in the order of the source. After a kill, the same call continues the run, from any machine. When everything is
    done, it computes nothing.

    Args:
        source: A Parquet file, or a folder of them, read in the order of their names.
        folder: Where the parts go: a new or empty folder, or that of an earlier run.
        model: An engine, or a model for ``get_engine``. Ignored when there is a ``runner``.
        runner: Where to compute; None computes in this process. ``mlx_qwen_embeddings.ray`` has a runner for a cluster.
        column: The column that holds the texts.
        role: Whether the texts are documents or queries.
        vector_column: Name of the column of vectors, which are lists of fixed size.
        part_rows: Rows in each part.
        restart: Whether to discard what an earlier run has done.
        **options: See ``EmbedOptions``. ``timeout`` applies to each part; ``show_progress`` draws one bar for the job.

    Raises:
        ValueError: When the source cannot be read, or an earlier run was started with other values; the message says which.
        FileExistsError: When the folder holds files of anything but a bulk job.
        OSError: When another process works on the same folder, or the disk is full; finished parts are kept.
        MLXQwenEmbeddingsError: See the engine's methods.
    """
    began, checked, corpus = time.perf_counter(), EmbedOptions(**options), open_corpus(Path(source), column)
    check_free(vector_column, corpus.columns, corpus.name)
    job = CorpusJob(
        source=corpus,
        fingerprint=corpus.footers,
        rows=corpus.rows,
        part_rows=whole_number("part_rows", part_rows),
        role=role,
        vector_column=vector_column,
        options=checked,
        folder=Path(folder).absolute(),
    )
    job.check_output()
    chosen = runner or LocalRunner(model if isinstance(model, EmbeddingEngine) else get_engine(model))
    stamp = chosen.stamp()
    resumed = run(job, stamp, partial(chosen.run, job), restart=restart)
    width = checked.dimensions or stamp.dimensions
    return CorpusReport(job.folder, job.rows, resumed, width, time.perf_counter() - began, job.count)
