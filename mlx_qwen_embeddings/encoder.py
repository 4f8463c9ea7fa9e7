"""One loaded model: the only object that holds MLX arrays. Every call comes from the thread that made it."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.backend import Backend, claim_thread, free_buffers
from mlx_qwen_embeddings.batching import pad
from mlx_qwen_embeddings.loading import load_model
from mlx_qwen_embeddings.model_files import ModelFiles
from mlx_qwen_embeddings.models import Pooling
from mlx_qwen_embeddings.models.pooling import pool
from mlx_qwen_embeddings.tokenization import Ids


class Encoder:
    """Token ids in, pooled vectors out."""

    def __init__(self, files: ModelFiles, backend: Backend) -> None:
        """Load the model.

        Raises:
            ModelLoadError: When the folder does not hold a model that fits its configuration.
        """
        self.backend = backend
        try:
            claim_thread(backend)
            self._model = load_model(files, backend)
        except BaseException:
            mx.clear_streams()  # nobody can release what was not made
            raise

    def encode(self, rows: Sequence[Ids], pooling: Pooling) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            rows: Token ids of each text, at least one each.
            pooling: How hidden states become a vector.

        Returns:
            Vectors before normalisation, at full length; shape (texts, d).
        """
        ids, lengths = pad(rows)
        real = mx.array(lengths)
        vectors = pool(self._model(mx.array(ids), real), real, pooling)
        return np.array(vectors, dtype=np.float32)

    def release(self) -> None:
        """Free the model, and the streams of the calling thread.

        MLX aborts the process at its exit when a thread ends without clearing its streams.
        """
        del self._model
        free_buffers()
        mx.clear_streams()

    @property
    def survives_fork(self) -> bool:
        """Whether a forked child can go on with the arrays: on the CPU it can, a GPU context is lost."""
        return self.backend.device == "cpu"

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of live arrays of this process, now and at most."""
        return int(mx.get_active_memory()), int(mx.get_peak_memory())
