"""Folder to evaluated model: configuration, build, sanitise, dequantise, load strictly, evaluate."""

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mlx_qwen_embeddings.backend import Backend, free_buffers
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.foreign import translate
from mlx_qwen_embeddings.memory import available_memory
from mlx_qwen_embeddings.model_files import ModelFiles
from mlx_qwen_embeddings.quantization import Packing, packings, quantize_modules, unpack, unpacked_bytes
from mlx_qwen_embeddings.weights import read_weights

MEMORY_SHARE = 0.8
"""Part of the free memory that unpacked weights may take: the rest is for the batches, and for other programs."""

logger = logging.getLogger(__name__)


class EncoderModel(Protocol):
    """What every architecture offers."""

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """Padded ids (B, L) and lengths (B,) to hidden states (B, L, D)."""
        ...


KeysValues = tuple[mx.array, mx.array]


@runtime_checkable
class CausalModel(EncoderModel, Protocol):
    """What a model offers whose tokens see only those before them; see ``models/qwen3.py``."""

    def last_hidden(self, ids: mx.array, lengths: mx.array, prefix: Sequence[KeysValues] | None = None) -> mx.array:
        """Padded ids (B, L) behind a prefix to the last real token's hidden state (B, D)."""
        ...

    def prefill(self, ids: mx.array) -> list[KeysValues]:
        """Ids (1, P) to what later tokens need of them, layer by layer."""
        ...


def load_model(files: ModelFiles, backend: Backend) -> EncoderModel:
    """Build and load the model that a folder holds. The calling thread owns its arrays from then on.

    On the CPU quantised weights are unpacked, if they fit into memory so: there MLX multiplies packed ones 20 to 90 times
    slower.

    Raises:
        ModelLoadError: When anything does not fit; the message names it.
    """
    family = importlib.import_module(files.family.module)
    dtype = mx.float32 if backend.dtype == "float32" else mx.bfloat16
    config, read = translate(files.config, read_weights(files))
    weights: dict[str, mx.array] = family.sanitize(read)
    layers = packings(config, weights)
    model: nn.Module = family.Model(family.Args.from_config(files.config))
    if backend.device == "cpu" and _fits_unpacked(files, weights, layers, dtype):
        weights = unpack(weights, layers, dtype)
    else:
        quantize_modules(model, layers)
    _check_complete(files, model, weights)
    model.load_weights([(name, _cast(value, dtype)) for name, value in weights.items()])
    model.eval()
    mx.eval(model.parameters())
    free_buffers()
    return cast("EncoderModel", model)  # nn.Module declares no __call__


def _fits_unpacked(
    files: ModelFiles, weights: Mapping[str, mx.array], layers: Mapping[str, Packing], dtype: mx.Dtype
) -> bool:
    available = available_memory()
    if not layers or available is None:
        return True
    needed = unpacked_bytes(weights, layers, dtype)
    if needed <= MEMORY_SHARE * available:
        return True
    logger.warning(
        "%s: unpacked, the weights would take %.1f GB, more than %.0f %% of the %.1f GB of free memory, so they stay "
        "packed, which is 20 to 90 times slower on the CPU. Free some memory, or take a smaller model or a GPU.",
        files.path,
        needed / 1e9,
        100 * MEMORY_SHARE,
        available / 1e9,
    )
    return False


def _cast(value: mx.array, dtype: mx.Dtype) -> mx.array:
    # Packed weights and the scales of the microscaling formats are integers and stay so.
    return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value


def _check_complete(files: ModelFiles, model: nn.Module, weights: Mapping[str, mx.array]) -> None:
    wanted: dict[str, Any] = dict(tree_flatten(model.parameters()))
    problems = {
        "lack": sorted(wanted.keys() - weights.keys()),
        "hold the unknown": sorted(weights.keys() - wanted.keys()),
        "have another shape for": [
            f"{name} ({weights[name].shape}, not {array.shape})"
            for name, array in wanted.items()
            if name in weights and weights[name].shape != array.shape
        ],
    }
    said = [f"{what} {_some(names)}" for what, names in problems.items() if names]
    if said:
        message = f"the weights in {files.path} do not fit its config.json: they {'; they '.join(said)}"
        raise ModelLoadError(message)


def _some(names: list[str], show: int = 3) -> str:
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return ", ".join(names[:show]) + more
