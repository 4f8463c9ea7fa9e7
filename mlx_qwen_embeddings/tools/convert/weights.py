"""Write a model's weights and configuration in MLX's form, with mlx-lm's own functions.

mlx-lm's ``convert`` itself does not serve here: it knows no BERT, refuses Qwen3-Embedding's official layout (names without
``model.``), and leaves pooling and prompts behind. Its functions for packing, shards and configuration take any model.
"""

import io
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.loading import build, fill, load_errors
from mlx_qwen_embeddings.compute.mlx.backend import Backend, claim_thread, computing, free_buffers
from mlx_qwen_embeddings.compute.quantization import unpack
from mlx_qwen_embeddings.tools.convert.choice import DTYPES, Choice, ConversionError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """What was stored.

    Attributes:
        dtype: Type of what is not packed.
        repacked: Whether the source's weights were packed already, so that they were rounded twice.
        plain: Matrices that stay plain, because their rows are no multiple of the group.
    """

    dtype: str
    repacked: bool
    plain: int


def write_model(files: ModelFiles, target: Path, choice: Choice | None, dtype: str | None, backend: Backend) -> Written:
    """Write ``config.json`` and safetensors files. The calling thread owns the arrays, and frees them.

    Args:
        files: The source.
        target: A folder that is there.
        choice: How to pack matrices; None leaves, or makes, them plain.
        dtype: Type of the rest; None is the source's.
        backend: Where to compute.

    Raises:
        ModelLoadError: When the source does not hold a model that fits its configuration.
        ConversionError: When nothing can be packed as asked.
        MissingExtraError: When mlx-lm is not installed.
    """
    try:
        mlx_lm = require("mlx_lm.utils", "convert", "Converting a model")
        with computing(backend):
            claim_thread(backend)
            with load_errors(files):
                model, weights, layers = build(files)
                dtype = dtype or ("float32" if layers and _is_full(files.config) else _usual_dtype(weights))
                fill(model, unpack(weights, layers, mx.float32), getattr(mx, dtype))
            del weights
            named = _as_language_model(model) if _is_language_model(files.config) else model
            config = _config(files.config, dtype)
            with redirect_stdout(io.StringIO()) as said:
                if choice:
                    named, config = mlx_lm.quantize_model(named, config, choice.group_size, choice.bits, mode=choice.mode)
                plain = _plain_matrices(files, named, choice)
                mlx_lm.save_model(target, named, donate_model=True)
            logger.debug("mlx-lm: %s", said.getvalue())
            mlx_lm.save_config(config, target / "config.json")
            return Written(dtype, bool(layers) and choice is not None, plain)
    finally:
        free_buffers()
        mx.clear_streams()  # MLX aborts the process at its exit when a thread ends without


def _is_full(config: Mapping[str, Any]) -> bool:
    # Of packed weights the scales alone have a type, and it may be less than the model's: nano's are in half precision.
    return (config.get("torch_dtype") or config.get("dtype")) == "float32"


def _usual_dtype(weights: Mapping[str, mx.array]) -> str:
    names = {getattr(mx, name): name for name in DTYPES}
    counted = Counter(names[array.dtype] for array in weights.values() if array.dtype in names)
    return counted.most_common(1)[0][0] if counted else DTYPES[0]


def _is_language_model(config: Mapping[str, Any]) -> bool:
    return bool(config["model_type"] == "qwen3")


def _as_language_model(model: nn.Module) -> nn.Module:
    # There the encoder is a part, so that "model." comes before the name of every weight.
    whole = nn.Module()
    whole.model = model
    return whole


def _config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in ("quantization", "quantization_config", "dtype")}
    # No head is stored, and this is how mlx-lm and transformers are told not to look for one.
    tied = {"tie_word_embeddings": True} if _is_language_model(config) else {}
    return kept | tied | {"torch_dtype": dtype}


def _plain_matrices(files: ModelFiles, model: nn.Module, choice: Choice | None) -> int:
    if choice is None:
        return 0
    stored: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    packed = {name.removesuffix(".scales") for name in stored if name.endswith(".scales")}
    if not packed:
        raise ConversionError(
            f"nothing in {files.path} can be packed in groups of {choice.group_size}: no matrix has rows that are a "
            "multiple of it; take a smaller --group-size"
        )
    matrices = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    return len([name for name in matrices if name not in packed])
