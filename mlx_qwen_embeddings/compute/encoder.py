"""Run one loaded model. Only this object holds MLX arrays, and only the thread that made it may call it."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.batching import cut, length_order, pad, pieces, shared_prefix
from mlx_qwen_embeddings.compute.loading import CausalModel, load_model
from mlx_qwen_embeddings.compute.memory import check_memory, piece_bytes
from mlx_qwen_embeddings.compute.mlx.backend import Backend, claim_thread, computing, free_buffers, return_memory
from mlx_qwen_embeddings.compute.mlx.lanes import Lanes
from mlx_qwen_embeddings.models.attention import KeysValues
from mlx_qwen_embeddings.models.layers import STEP, pool
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.tokenization import Ids

if TYPE_CHECKING:
    from mlx import nn

KEPT_PROMPT_BYTES = 128 * 2**20
"""Most bytes of keys and values to keep for prompts. In the 0.6B a token takes 0.2 MB in float32; a prompt has about 20."""

SHORTEST_SHARED = 4
"""Fewest shared tokens that are worth reusing a kept prompt for."""

SMALLEST_PIECE, LARGEST_PIECE = 192, 512
"""Tokens that run through all layers together on the CPU. Fewer read the weights too often, more do not fit its caches."""

BATCH_TOKENS = {"cpu": 2048, "gpu": 16_384}
"""Most tokens of a batch. On the CPU that is four pieces: more is no faster, and makes other callers wait longer."""


class Encoder:
    """Turn token ids into pooled vectors."""

    def __init__(self, files: ModelFiles, backend: Backend, *, lanes: int | None = None, plain: bool = False) -> None:
        """Load the model.

        Args:
            files: The model's folder.
            backend: Where to compute.
            lanes: Number of streams side by side; None takes what suits the machine.
            plain: Run all tokens through all layers, without any shortcut, for comparison.

        Raises:
            ModelLoadError: If the folder does not hold a model that fits its configuration.
        """
        self.backend = backend
        self._config = files.config
        with computing(backend):
            claim_thread(backend)
            self._model = load_model(files, backend)
        weights = dict(tree_flatten(cast("nn.Module", self._model).parameters()))
        self._nbytes = sum(cast("mx.array", weight).nbytes for weight in weights.values())
        self._lanes: Lanes[NDArray[np.float32]] = Lanes(backend, 1 if plain else lanes)
        self.padding = 0
        self.batch_tokens = BATCH_TOKENS[backend.device]
        self._causal = self._model if isinstance(self._model, CausalModel) and not plain else None
        self._prompts: OrderedDict[bytes, list[KeysValues]] = OrderedDict()

    def encode(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None = None) -> NDArray[np.float32]:
        """Run one batch, in pieces of similar length.

        Args:
            rows: Token ids of each text, at least one each.
            pooling: How hidden states become a vector.
            prompt: Ids that the rows may start with. Their common start is computed once and kept.

        Returns:
            Vectors before normalisation, with all dimensions; shape (texts, d).

        Raises:
            MemoryError: If the batch does not fit into memory.
        """
        with computing(self.backend):
            return self._encode(rows, pooling, prompt)

    def _encode(self, rows: Sequence[Ids], pooling: Pooling, prompt: Ids | None) -> NDArray[np.float32]:
        shared, prefix = 0, None
        if pooling == "last" and self._causal is not None:
            shared, prefix = self._prefix(self._causal, rows, prompt)
        lengths = [len(row) - shared for row in rows]
        order = length_order(lengths)
        parts = [order[piece] for piece in self._cut([lengths[place] for place in order])]
        self.padding = sum(self._padded(part, lengths) for part in parts) - sum(lengths)
        self._check_memory([(len(part), self._padded(part, lengths) // len(part)) for part in parts], shared)
        parts.sort(key=lambda part: self._padded(part, lengths), reverse=True)  # the shortest starts last
        jobs = [partial(self._run, [rows[place][shared:] for place in part], pooling, prefix, shared) for part in parts]
        results = self._lanes.run(jobs)
        vectors = np.empty((len(rows), results[0].shape[1]), dtype=np.float32)
        for part, result in zip(parts, results, strict=True):
            vectors[part] = result
        return vectors

    def _check_memory(self, shapes: Sequence[tuple[int, int]], shared: int) -> None:
        if self.backend.device == "gpu":
            return  # MLX raises there if an allocation fails
        needed = [piece_bytes(self._config, rows, length, shared) for rows, length in shapes]
        tokens = sum(rows * length for rows, length in shapes)
        check_memory(needed, self._lanes.number, int(mx.get_cache_memory()), tokens)

    def _step(self, rows: int) -> int:
        # BERT has no embeddings for positions beyond its limit, so it must not be padded past the longest text.
        return STEP if rows == 1 and self._causal is not None and self.backend.device == "cpu" else 1

    def _padded(self, part: NDArray[np.int64], lengths: Sequence[int]) -> int:
        step = self._step(len(part))
        return int(len(part) * (-(-lengths[part[-1]] // step) * step))

    def _cut(self, lengths: Sequence[int]) -> list[range]:
        if self.backend.device == "gpu":
            return cut(lengths, max(1, sum(lengths)))
        return pieces(lengths, self._lanes.number, SMALLEST_PIECE, LARGEST_PIECE)

    def _run(
        self, rows: Sequence[Ids], pooling: Pooling, prefix: Sequence[KeysValues] | None, shared: int
    ) -> NDArray[np.float32]:
        ids, lengths = pad(rows, multiple=self._step(len(rows)))
        real = mx.array(lengths)
        if pooling == "last" and self._causal is not None:
            before = prefix and [(k[:, :, :shared], v[:, :, :shared]) for k, v in prefix]
            vectors = self._causal.last_hidden(mx.array(ids), real, before).astype(mx.float32)
        else:
            vectors = pool(self._model(mx.array(ids), real), real, pooling)
        return np.array(vectors, dtype=np.float32)

    def _prefix(self, model: CausalModel, rows: Sequence[Ids], prompt: Ids | None) -> tuple[int, list[KeysValues] | None]:
        # Compare ids, not text: the end of a prompt and the first word can merge into one token.
        shared = shared_prefix(rows, prompt) if prompt is not None else 0
        if prompt is None or shared < SHORTEST_SHARED:
            return 0, None
        key = prompt.tobytes()
        kept = self._prompts.get(key)
        if kept is None:
            self._check_memory([(1, len(prompt))], 0)
            kept = model.prefill(mx.array(prompt)[None])
            mx.eval(kept)  # before it is stored, so that a failure cannot reach others who share it
            if _bytes(kept) <= KEPT_PROMPT_BYTES:
                self._prompts[key] = kept
            while sum(map(_bytes, self._prompts.values())) > KEPT_PROMPT_BYTES:
                self._prompts.popitem(last=False)
        else:
            self._prompts.move_to_end(key)
        return shared, kept

    def release(self) -> None:
        """Free the model."""
        self._prompts.clear()
        del self._model, self._causal
        free_buffers()
        return_memory()

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory."""
        return self._nbytes

    @property
    def survives_fork(self) -> bool:
        """Whether a forked child can use the arrays: on the CPU it can, a GPU context is lost."""
        return self.backend.device == "cpu"

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of this process's live arrays: now, and at their peak."""
        return int(mx.get_active_memory()), int(mx.get_peak_memory())


def _bytes(prompt: list[KeysValues]) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in prompt)
