"""``embed_file``: one file in, one file out."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._files import move, replaced, sync
from mlx_qwen_embeddings._html import NotebookTable, Table
from mlx_qwen_embeddings.bulk.job import MANIFEST, Job, ModelStamp, embed_blocks, read_manifest, run
from mlx_qwen_embeddings.bulk.sources import Source, open_source
from mlx_qwen_embeddings.bulk.targets import Format, columns_of, format_of, write_target
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.errors import EmbeddingFailedError, InputTooLongError
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions, whole_number
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from mlx_qwen_embeddings.prompts import Role

PART_ROWS = 512
"""Rows in a part. A kill loses at most two parts. Texts are sorted by length within a part."""

WHOLE = "whole"
"""Name of the finished file while it is still in the job's folder."""


@dataclass(frozen=True, kw_only=True)
class FileJob(Job):
    """A job that keeps vectors in parts beside the target, and joins them with the rows once all parts exist."""

    suffix = ".npy"

    source: Source
    target: Path
    form: Format
    schema: Any  # what columns_of returned
    overwrite: bool

    def check_output(self) -> None:
        """Raise ``FileExistsError`` when the target exists and must not be replaced."""
        _refuse_existing(self.target, overwrite=self.overwrite)

    def manifest(self, model: ModelStamp) -> dict[str, Any]:
        """Add the format to what every job records."""
        return {**super().manifest(model), "format": self.form}

    def rows_in(self, number: int) -> int | None:
        """Return the number of rows in a part; None when the file is damaged."""
        try:
            return len(self._load(number))
        except (OSError, ValueError, EOFError):
            return None

    def missing(self) -> list[int]:
        """Return all parts from the first missing one on, because texts are read in order."""
        found = read_manifest(self.state)
        if found and found["finished"]:
            return []
        return list(range(min(super().missing(), default=self.count), self.count))

    def embed(self, engine: EmbeddingEngine, missing: Sequence[int]) -> Iterator[int]:
        """Embed and write the parts from the first missing one on, and yield the number of rows of each."""
        start = missing[0] * self.part_rows
        texts = islice(self.source.texts(), start, None)
        try:
            vectors = embed_blocks(engine, texts, self.part_rows, self.role, self.options)
            for number, block in zip(missing, vectors, strict=False):  # run() detects a changed source at the end
                self.write(number, block)
                yield len(block)
        except (InputTooLongError, EmbeddingFailedError) as error:
            done = f", after the {start:,} rows that were done" if start else ""
            error.args = (f"{self.source.name}{done}: {error}",)
            raise

    def write(self, number: int, vectors: NDArray[Any]) -> None:
        """Write a part."""
        with replaced(self.path(number)) as file:
            np.save(file, vectors, allow_pickle=False)

    def finish(self, model: ModelStamp) -> None:
        """Write the complete file beside the parts."""
        path = self.folder / WHOLE
        width = self.options.dimensions or model.dimensions
        empty = quantize(np.empty((0, width), np.float32), self.options.precision, unit_ranges(width))
        blocks = chain([empty], map(self._load, range(self.count)))
        write_target(self.source, blocks, path, self.form, rows=self.rows, column=self.vector_column, schema=self.schema)
        sync(path)

    def deliver(self) -> None:
        """Move the complete file to the target, and remove the parts."""
        whole = self.folder / WHOLE
        if whole.exists():
            move(whole, self.target)
        self.remove()

    def clear(self) -> None:
        """Remove the parts and the complete file."""
        super().clear()
        (self.folder / WHOLE).unlink(missing_ok=True)

    def _load(self, number: int) -> NDArray[Any]:
        vectors: NDArray[Any] = np.load(self.path(number), mmap_mode="r", allow_pickle=False)
        return vectors


@dataclass(frozen=True, slots=True)
class BulkReport(NotebookTable):
    """The result of ``embed_file``.

    Attributes:
        target: The finished file.
        rows: Number of rows.
        resumed: Number of rows that an earlier run had embedded.
        dimensions: Width of the vectors before packing; "binary" and "ubinary" pack eight components into a byte.
        seconds: How long this run took.
    """

    target: Path
    rows: int
    resumed: int
    dimensions: int
    seconds: float

    def _table(self) -> Table:
        facts = {"rows": self.rows, "from an earlier run": self.resumed, "dimensions": self.dimensions}
        return str(self.target), facts | {"time": f"{self.seconds:.2f} s"}


def embed_file(
    source: str | Path | Source,
    target: str | Path,
    *,
    model: str | EmbeddingEngine | None = None,
    column: str = "text",
    role: Role = "document",
    vector_column: str = "embedding",
    part_rows: int = PART_ROWS,
    overwrite: bool = False,
    restart: bool = False,
    **options: Unpack[CallOptions],
) -> BulkReport:
    """Embed the rows of a file, and write every row with its vector to another file, in the same order.

    Vectors are kept in a folder beside the target, ``<target>.parts``, until all are computed. Then the complete target
    appears and the folder is removed. After a kill, the same call continues the run, and repeats at most two parts.

    Args:
        source: A file whose name ends in ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``; any other is read as one text per
            line.
        target: A file whose name ends in ``.jsonl``, ``.json`` or ``.parquet``, which keep all columns unchanged, or in
            ``.npy``, which holds only the vectors.
        model: An engine, or a model for ``get_engine``.
        column: The column of the source that holds the texts.
        role: Whether the texts are documents or queries.
        vector_column: Name of the column of vectors in the target.
        part_rows: Rows in each part.
        overwrite: Whether to replace an existing target.
        restart: Whether to discard what an earlier run has done.
        **options: See ``EmbedOptions``. ``timeout`` applies to each part; ``show_progress`` draws one bar for the job.

    Raises:
        ValueError: When the source cannot be read, or an earlier run was started with other values; the message says which.
        FileExistsError: When the target exists and ``overwrite`` is false.
        OSError: When another process works on the same target, or the disk is full; finished parts are kept.
        MLXQwenEmbeddingsError: See the engine's methods.
    """
    began, path, checked = time.perf_counter(), Path(target), EmbedOptions(**options)
    form, folder = format_of(path), path.with_name(f"{path.name}.parts")
    if not (folder / MANIFEST).exists():
        with suppress(OSError):
            folder.rmdir()  # a run that was killed at its very last step leaves an empty folder
        _refuse_existing(path, overwrite=overwrite)
    rows = source if isinstance(source, Source) else open_source(Path(source), column)
    job = FileJob(
        source=rows,
        fingerprint=rows.fingerprint(),
        schema=columns_of(rows, form, vector_column),
        rows=sum(1 for _ in rows.texts()),
        part_rows=whole_number("part_rows", part_rows),
        role=role,
        vector_column=vector_column,
        options=checked,
        folder=folder,
        target=path,
        form=form,
        overwrite=overwrite,
    )
    engine = model if isinstance(model, EmbeddingEngine) else get_engine(model)
    resumed = run(job, ModelStamp.of(engine), partial(job.embed, engine), restart=restart)
    width = checked.dimensions or engine.dimensions
    return BulkReport(path, job.rows, resumed, width, time.perf_counter() - began)


def _refuse_existing(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists: pass overwrite=True (--overwrite) to replace it")
