"""``embed_dataset``: add a column of vectors to a Ray dataset."""

from collections.abc import Mapping
from typing import Any, Unpack

import pyarrow as pa
from ray.data import Dataset

from mlx_qwen_embeddings.bulk.job import embed
from mlx_qwen_embeddings.bulk.parquet import as_lists
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.ray.model import SharedModel
from mlx_qwen_embeddings.ray.placement import Placement

BATCH_ROWS = 512
"""Rows in an actor's batch: enough for its engine to sort by length. When the actor dies, they are computed again."""


def embed_dataset(
    ds: Dataset,
    column: str = "text",
    *,
    model: str | None = None,
    role: Role = "document",
    vector_column: str = "embedding",
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    batch_rows: int = BATCH_ROWS,
    settings: Mapping[str, Any] | None = None,
    **options: Unpack[CallOptions],
) -> Dataset:
    """Embed a column of a dataset on a cluster, with one engine in each actor.

    The model is found at once, on one of the nodes. Everything else is lazy, as always in Ray Data. An actor or node that
    dies is replaced, and its batches are computed again. Ray Data returns rows in any order unless its context sets
    ``preserve_order``. When the whole run is killed, it starts from the beginning. To continue a killed run, use
    ``embed_parquet`` with a ``RayRunner``, or ``mlx-qwen bulk``.

    Large blocks are split into ``batch_rows`` rows, so that a single large file keeps every actor busy. An actor holds two
    such batches at once, which bounds its memory. Its engine splits them further, by length and tokens.

    Args:
        ds: The dataset.
        column: The column that holds the texts.
        model: Alias, Hub name, or a folder with the same path on every node; None takes ``MLX_QWEN_MODEL``, or else
            "small". Each node reads a Hub model from its own Hugging Face cache, at the commit that the first node found.
        role: Whether the texts are documents or queries.
        vector_column: Name of the column of vectors: lists of fixed size, float32 unless ``precision`` says otherwise.
        concurrency: See ``Placement``.
        num_cpus: See ``Placement``.
        num_gpus: See ``Placement``.
        batch_rows: Rows in an actor's batch.
        settings: Further fields of ``EngineSettings`` for each actor's engine, such as ``dtype`` or ``cache_dir``.
        **options: See ``EmbedOptions``.

    Raises:
        UnknownModelError: When no model has this name.
        ModelLoadError: When a node cannot load the model.
        ValueError: When an option is wrong, no node has room for an actor, or the actors would leave no CPU for reading.
    """
    checked, placement = EmbedOptions(**options), Placement(concurrency=concurrency, num_cpus=num_cpus, num_gpus=num_gpus)
    placement.check_room_for_reading()
    shared = SharedModel.find(model, settings or {}, placement)
    return ds.repartition(target_num_rows_per_block=batch_rows).map_batches(
        TableEmbedder,
        batch_size=batch_rows,
        batch_format="pyarrow",
        compute=placement.strategy(),
        fn_constructor_args=(shared, column, role, vector_column, checked),
        udf_modifying_row_count=False,
        **placement.resources(),
    )


class TableEmbedder:
    """An actor that adds vectors to tables."""

    def __init__(self, model: SharedModel, column: str, role: Role, vector_column: str, options: EmbedOptions) -> None:
        self._engine = model.open().warmup()
        self._column, self._vector_column, self._role, self._options = column, vector_column, role, options

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the vectors of one column. Refuse a table without that column, or with one that has the vectors' name."""
        if self._column not in table.column_names or self._vector_column in table.column_names:
            there = ", ".join(table.column_names)
            raise ValueError(
                f"the dataset has the columns {there}: column={self._column!r} must be one of them, "
                f"and vector_column={self._vector_column!r} must not"
            )
        texts = table.column(self._column).to_pylist()
        return table.append_column(self._vector_column, as_lists(embed(self._engine, texts, self._role, self._options)))
