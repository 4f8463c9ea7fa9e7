"""``embed_dataset``: a Ray dataset with a column of vectors."""

from collections.abc import Mapping
from typing import Any, Unpack

from ray.data import Dataset

from mlx_qwen_embeddings.options import CallOptions, EmbedOptions
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.ray.model import SharedModel, TableEmbedder
from mlx_qwen_embeddings.ray.placement import Placement

BATCH_ROWS = 512
"""Rows that go to an actor at once, enough for its engine to sort by length, and what is computed anew when it dies."""


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
    """Embed a column of a dataset on a cluster, with one engine an actor.

    A node finds the model at once; everything else is lazy, as in all of Ray Data. An actor or node that dies is replaced,
    and its batches are computed anew. Ray Data gives rows in any order unless its context says ``preserve_order``.
    A run that was killed as a whole begins anew: ``embed_parquet`` with a ``RayRunner``, or ``mlx-qwen bulk``, continues.

    Large blocks are cut into ``batch_rows`` rows, so that a single large file still keeps every actor busy. An actor's
    engine cuts those by length and tokens, and two batches are in its hand at once: memory is bounded by them.

    Args:
        ds: The dataset.
        column: Which column holds the texts.
        model: Alias, Hub name, or a folder that lies at the same path on every node; None takes ``MLX_QWEN_MODEL``, else
            "small". Each node takes a named model from its own Hugging Face cache, at the commit that the first one found.
        role: Whether they are documents or queries.
        vector_column: Name of the vectors, which are lists of fixed size: float32 unless ``precision`` says otherwise.
        concurrency: See ``Placement``.
        num_cpus: See ``Placement``.
        num_gpus: See ``Placement``.
        batch_rows: Rows that go to an actor at once.
        settings: Further fields of ``EngineSettings`` for each actor's engine, ``dtype`` or ``cache_dir`` for one.
        **options: See ``EmbedOptions``.

    Raises:
        UnknownModelError: When the name means nothing.
        ModelLoadError: When a node cannot have the model.
        ValueError: When an option does not fit, no node could hold an actor, or all of them would leave no CPU for reading.
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
