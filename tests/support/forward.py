"""Run a model folder on the calling thread, without an engine."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.batching import pad
from mlx_qwen_embeddings.compute.loading import load_model
from mlx_qwen_embeddings.compute.mlx.backend import Backend
from mlx_qwen_embeddings.models.layers import pool
from mlx_qwen_embeddings.options import Pooling

CPU = Backend("cpu", "float32")
PACKED = Backend("gpu", "float32")
"""Makes the loader keep quantised weights packed, as on a GPU. MLX still computes on its default device."""

ROWS: tuple[tuple[int, ...], ...] = (
    (5, 900, 1023),
    (1023,),
    tuple(range(100, 160)),
    (7, 7, 7, 7, 11, 13),
)
"""Token ids of four texts of different lengths; one is only the end token."""


def hidden_states(folder: Path, rows: Sequence[Sequence[int]] = ROWS, backend: Backend = CPU) -> list[NDArray[np.float32]]:
    """Run the rows as one right-padded batch, and return each row's real positions; shape (tokens, hidden)."""
    model = load_model(ModelFiles(folder), backend)
    ids, lengths = pad([np.array(row, dtype=np.int32) for row in rows])
    states = np.array(model(mx.array(ids), mx.array(lengths)), dtype=np.float32)
    return [state[:length] for state, length in zip(states, lengths, strict=True)]


def pooled_vectors(
    folder: Path, pooling: Pooling = "last", rows: Sequence[Sequence[int]] = ROWS, backend: Backend = CPU
) -> NDArray[np.float32]:
    """Run the rows as one batch, and return their unit vectors; shape (texts, hidden)."""
    model = load_model(ModelFiles(folder), backend)
    ids, lengths = pad([np.array(row, dtype=np.int32) for row in rows])
    vectors = np.array(pool(model(mx.array(ids), mx.array(lengths)), mx.array(lengths), pooling))
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
