"""Load a model folder: build the model, rename and unpack its weights, check that they fit, evaluate them."""

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
from mlx_qwen_embeddings.models.attention import KeysValues

MEMORY_SHARE = 0.8
"""Share of the free memory that unpacked weights may take. The rest is for batches and for other programs."""

logger = logging.getLogger(__name__)


class EncoderModel(Protocol):
    """A model of any architecture."""

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """Turn padded ids (B, L) and lengths (B,) into hidden states (B, L, D)."""


@runtime_checkable
class CausalModel(EncoderModel, Protocol):
    """A model in which a token sees only those before it; see ``models/qwen3.py``."""

    def last_hidden(self, ids: mx.array, lengths: mx.array, prefix: Sequence[KeysValues] | None = None) -> mx.array:
        """Turn padded ids (B, L) that follow a prefix into the hidden state of each last real token (B, D)."""

    def prefill(self, ids: mx.array) -> list[KeysValues]:
        """Turn the ids of a prefix (1, P) into its keys and values in each layer."""


def load_model(files: ModelFiles, backend: Backend) -> EncoderModel:
    """Build and load the model in a folder. The calling thread owns its arrays from then on.

    On the CPU quantised weights are unpacked if memory allows, because MLX multiplies packed ones 20 to 90 times slower.

    Raises:
        ModelLoadError: If anything does not fit; the message names it and the folder.
    """
    dtype = mx.float32 if backend.dtype == "float32" else mx.bfloat16
    with load_errors(files):
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
    """Return a folder's model without weights, the stored weights by the model's names, and how layers are packed.

    Raises:
        ModelLoadError: If the configuration or the format of the weights is not supported.
    """
    family = importlib.import_module(files.family.module)
    weights: dict[str, mx.array] = family.sanitize(read_weights(files))
    layers = packings(files.config, weights)
    model: nn.Module = family.Model(family.Args.from_config(files.config))
    return model, weights, layers


def fill(model: nn.Module, weights: Mapping[str, mx.array], dtype: mx.Dtype) -> None:
    """Put weights into a model, floating-point ones as ``dtype``. Nothing is evaluated.

    Raises:
        ModelLoadError: If names or shapes are not exactly the model's.
    """
    _check_complete(model, weights)
    model.load_weights([(name, _cast(value, dtype)) for name, value in weights.items()])


@contextmanager
def load_errors(files: ModelFiles) -> Iterator[None]:
    """Turn MLX's errors, such as a failed allocation, into a ``ModelLoadError``, and name the folder in every message."""
    try:
        yield
    except (ModelLoadError, RuntimeError) as error:
        if isinstance(error, ModelLoadError) and str(error).startswith(str(files.path)):
            raise
        mlx = f"MLX cannot load it ({error}): if it is too large for this machine, free some memory, or take a smaller one"
        raise ModelLoadError(
            f"{files.gguf or files.path}: {error if isinstance(error, ModelLoadError) else mlx}"
        ) from error


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
    # Packed weights and the scales of the microscaling formats are integers and stay integers.
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
    found = [f"{what} {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise ModelLoadError(
            f"the weights do not fit config.json: they {'; they '.join(found)}: take both from one download"
        )


def _some(names: list[str], show: int = 3) -> str:
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return ", ".join(names[:show]) + more
