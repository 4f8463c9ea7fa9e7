"""Folder to evaluated model: configuration, build, sanitise, dequantise, load strictly, evaluate."""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast, runtime_checkable

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mlx_qwen_embeddings._files import human_size
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.memory import available_memory
from mlx_qwen_embeddings.compute.mlx.backend import Backend, free_buffers
from mlx_qwen_embeddings.compute.quantization import Packing, packings, quantize_modules, unpack, unpacked_bytes
from mlx_qwen_embeddings.compute.weights import read_weights
from mlx_qwen_embeddings.errors import ModelLoadError

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
        ModelLoadError: When anything does not fit; the message names it and the folder.
    """
    dtype = mx.float32 if backend.dtype == "float32" else mx.bfloat16
    with naming(files), _explaining():
        model, weights, layers = build(files)
        if backend.device == "cpu" and _fits_unpacked(files, weights, layers, dtype):
            weights = unpack(weights, layers, dtype)
        else:
            quantize_modules(model, layers)
        fill(model, weights, dtype)
        model.eval()
        mx.eval(model.parameters())
    free_buffers()
    return cast("EncoderModel", model)  # nn.Module declares no __call__


def build(files: ModelFiles) -> tuple[nn.Module, dict[str, mx.array], dict[str, Packing]]:
    """Give a folder's model without its weights; the weights as stored, under the model's names; and how they are packed.

    Raises:
        ModelLoadError: When the configuration or the form of the weights is not served.
    """
    family = importlib.import_module(files.family.module)
    weights: dict[str, mx.array] = family.sanitize(read_weights(files))
    layers = packings(files.config, weights)
    model: nn.Module = family.Model(family.Args.from_config(files.config))
    return model, weights, layers


def fill(model: nn.Module, weights: Mapping[str, mx.array], dtype: mx.Dtype) -> None:
    """Give a model its weights, floating-point ones as ``dtype``; nothing is evaluated.

    Raises:
        ModelLoadError: When names or shapes are not exactly the model's.
    """
    _check_complete(model, weights)
    model.load_weights([(name, _cast(value, dtype)) for name, value in weights.items()])


@contextmanager
def naming(files: ModelFiles) -> Iterator[None]:
    """Put the folder, or the GGUF file, in front of a message that does not name it."""
    try:
        yield
    except ModelLoadError as error:
        if str(error).startswith(str(files.path)):
            raise
        message = f"{files.gguf or files.path}: {error}"
        raise ModelLoadError(message) from error


@contextmanager
def _explaining() -> Iterator[None]:
    """Make of what MLX raises, such as for memory that it cannot have, an error of loading."""
    try:
        yield
    except RuntimeError as error:
        message = (
            f"MLX cannot load it ({error}): if it is too large for this machine, free some memory, or take a smaller one"
        )
        raise ModelLoadError(message) from error


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
        "%s: unpacked, the weights would take %s, more than %.0f %% of the %s of free memory, so they stay "
        "packed, which is 20 to 90 times slower on the CPU. Free some memory, or take a smaller model or a GPU.",
        files.path,
        human_size(needed),
        100 * MEMORY_SHARE,
        human_size(available),
    )
    return False


def _cast(value: mx.array, dtype: mx.Dtype) -> mx.array:
    # Packed weights and the scales of the microscaling formats are integers and stay so.
    return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value


def _check_complete(model: nn.Module, weights: Mapping[str, mx.array]) -> None:
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
        message = f"the weights do not fit config.json: they {'; they '.join(said)}: take both from one download"
        raise ModelLoadError(message)


def _some(names: list[str], show: int = 3) -> str:
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return ", ".join(names[:show]) + more
