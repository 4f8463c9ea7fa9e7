"""A job over a corpus: a part of the output for each fixed range of rows, in whatever order and by whomever."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings._files import move, sync
from mlx_qwen_embeddings.bulk.corpus import Corpus, RangeReader
from mlx_qwen_embeddings.bulk.parquet import cells
from mlx_qwen_embeddings.bulk.parts import remove
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.options import EmbedOptions
from mlx_qwen_embeddings.prompts import Role

STATE = "_job"
"""Folder in the output for what is no output; readers of Parquet leave out names that begin with an underscore."""


@dataclass(frozen=True, slots=True)
class CorpusJob:
    """What is to be done; it pickles, and whoever has it can do any part.

    Attributes:
        corpus: The rows.
        folder: Where the parts go.
        part_rows: Rows a part; the last one may have fewer.
        role: Whether the texts are queries or documents.
        vector_column: Name of the vectors in the output.
        options: Of each call of the engine.
    """

    corpus: Corpus
    folder: Path
    part_rows: int
    role: Role
    vector_column: str
    options: EmbedOptions

    @property
    def state(self) -> Path:
        """Where the manifest, the lock and what is being written are."""
        return self.folder / STATE

    @property
    def count(self) -> int:
        """Number of parts."""
        return -(-self.corpus.rows // self.part_rows)

    def bounds(self, number: int) -> tuple[int, int]:
        """Give the first row of a part, and the one after its last."""
        start = number * self.part_rows
        return start, min(start + self.part_rows, self.corpus.rows)

    def path(self, number: int) -> Path:
        """Give the file of a part."""
        return self.folder / f"part-{number:08d}.parquet"

    @property
    def begun(self) -> bool:
        """Whether any part is there."""
        return any(self._parts())

    def missing(self) -> list[int]:
        """Give the parts that are still to do."""
        there = {path.name for path in self._parts()}
        return [number for number in range(self.count) if self.path(number).name not in there or not self._whole(number)]

    def write(self, number: int, engine: EmbeddingEngine, reader: RangeReader) -> int:
        """Do one part; its file appears whole or not at all. Done twice, it is the same file again.

        Returns:
            Its rows.

        Raises:
            ValueError: When a row has no text.
            MLXQwenEmbeddingsError: As the engine's methods; positions in the message count from the part's first row.
        """
        start, stop = self.bounds(number)
        table = reader.table(start, stop)
        vectors = embed(engine, reader.texts(table, start), self.role, self.options)
        whole = table.append_column(self.vector_column, cells(vectors))
        # Two may write the same part: one that was taken for dead, and who took its place.
        temporary = self.state / f"{self.path(number).name}.{uuid.uuid4().hex}.tmp"
        try:
            require("pyarrow.parquet", "parquet", "Parquet").write_table(whole, temporary)
            sync(temporary)
            move(temporary, self.path(number))
        finally:
            temporary.unlink(missing_ok=True)
        return stop - start

    def _whole(self, number: int) -> bool:
        arrow, start_stop = require("pyarrow", "parquet", "Parquet"), self.bounds(number)
        try:
            rows = require("pyarrow.parquet", "parquet", "Parquet").read_metadata(self.path(number)).num_rows
        except (OSError, arrow.ArrowException):
            return False
        return bool(rows == start_stop[1] - start_stop[0])

    def clear(self) -> None:
        """Remove all parts, and what was being written."""
        for path in self._left():
            path.unlink(missing_ok=True)

    def forget(self, *, folder: bool) -> None:
        """Remove what was made for a job of which nothing is done, also the folder if that was."""
        self.sweep()
        remove(self.state)
        self.clear()  # last: on a cluster somebody may just have moved a part there
        if folder:
            with suppress(OSError):  # something else is there
                self.folder.rmdir()

    def sweep(self) -> None:
        """Remove what was being written when an earlier run was killed."""
        for path in self.state.glob("*.tmp"):
            path.unlink(missing_ok=True)

    def _parts(self) -> Iterator[Path]:
        return self.folder.glob("part-*.parquet")

    def _left(self) -> Iterator[Path]:
        yield from self._parts()
        yield from self.state.glob("*.tmp")


def embed(engine: EmbeddingEngine, texts: list[str], role: Role, options: EmbedOptions) -> NDArray[np.generic]:
    """Embed texts as what they are."""
    call: dict[str, Any] = {name: getattr(options, name) for name in options.__dataclass_fields__}
    call["show_progress"] = False  # one bar for the whole job, not one a call
    return engine.embed_queries(texts, **call) if role == "query" else engine.embed_documents(texts, **call)
