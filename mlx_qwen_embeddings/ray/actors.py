"""What an actor runs: its engine, and what it does with a batch. Its calls may overlap."""

import pyarrow as pa

from mlx_qwen_embeddings.bulk.corpus import RangeReader
from mlx_qwen_embeddings.bulk.corpus_job import CorpusJob, embed
from mlx_qwen_embeddings.bulk.parquet import cells
from mlx_qwen_embeddings.options import EmbedOptions
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.ray.model import SharedModel


class TableEmbedder:
    """Adds vectors to tables."""

    def __init__(self, model: SharedModel, column: str, role: Role, vector_column: str, options: EmbedOptions) -> None:
        """Open the engine and load the model."""
        self._engine = model.open().warmup()
        self._column, self._vector_column, self._role, self._options = column, vector_column, role, options

    def __call__(self, table: pa.Table) -> pa.Table:
        """Embed one column into another.

        Raises:
            ValueError: When there is no such column, or the vectors' is there already.
        """
        if self._column not in table.column_names or self._vector_column in table.column_names:
            there = ", ".join(table.column_names)
            message = (
                f"the dataset has the columns {there}: column={self._column!r} must be one of them, "
                f"and vector_column={self._vector_column!r} none"
            )
            raise ValueError(message)
        texts = table.column(self._column).to_pylist()
        return table.append_column(self._vector_column, cells(embed(self._engine, texts, self._role, self._options)))


class PartWriter:
    """Reads, embeds and writes parts of a corpus; Ray carries their numbers only."""

    def __init__(self, model: SharedModel, job: CorpusJob) -> None:
        """Remember what is to be done; an error here would be told as the actor's death."""
        self._model, self._job = model, job

    def ready(self) -> int:
        """Open the engine and load the model.

        Raises:
            FileNotFoundError: When this node does not see the job's folder.
        """
        if not self._job.state.is_dir():
            message = f"{self._job.folder} is not there on every node: name a folder that all of them share"
            raise FileNotFoundError(message)
        self._engine, self._reader = self._model.open().warmup(), RangeReader(self._job.corpus)
        return 0

    def do(self, number: int) -> int:
        """Do a part and give its rows."""
        return self._job.write(number, self._engine, self._reader)
