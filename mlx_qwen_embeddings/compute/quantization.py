"""Read MLX-quantised checkpoints: find which layers are packed and how, and unpack them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from mlx_qwen_embeddings.errors import ModelLoadError

OTHER_FORMATS = (".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv")
"""How the names of tensors end that AWQ, GPTQ, compressed-tensors and FP8 checkpoints hold, and MLX's never do."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How the weights of one layer are packed.

    Attributes:
        group_size: Weights that share a scale; None is the mode's default.
        bits: Bits per weight; None is the mode's default.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4".
    """

    group_size: int | None = None
    bits: int | None = None
    mode: str = "affine"


def packings(config: Mapping[str, Any], weights: Mapping[str, mx.array]) -> dict[str, Packing]:
    """Return the packing of every quantised layer by its name, without the prefix that ``sanitize`` strips.

    A layer is quantised if the checkpoint has scales for it. ``quantization`` in the configuration says how, for all layers
    or under a single layer's name. A layer's own entry inherits nothing: without a mode it is "affine", as in mlx-lm.

    Raises:
        ModelLoadError: If the configuration does not say how the layers are packed, or the checkpoint has another format.
    """
    said = config.get("quantization") or config.get("quantization_config") or {}
    _refuse_other_formats(said.get("quant_method"), weights)
    layers = [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]
    if layers and not said:
        raise ModelLoadError(
            "the weights are quantised but config.json has no 'quantization': copy it from the model's repository"
        )
    single = {name.removeprefix("model."): value for name, value in said.items() if isinstance(value, dict)}
    how = {layer: single.get(layer, said) for layer in layers}
    return {layer: Packing(own.get("group_size"), own.get("bits"), own.get("mode", "affine")) for layer, own in how.items()}


def _refuse_other_formats(method: str | None, names: Iterable[str]) -> None:
    found = next((name for name in names if name.endswith(OTHER_FORMATS)), None)
    if method is not None:
        reason = f"quantization_config says quant_method {method!r}"
    elif found is not None:
        reason = f"the tensor {found} belongs to an AWQ, GPTQ, compressed-tensors or FP8 checkpoint"
    else:
        return
    raise ModelLoadError(
        f"{reason}, which is not read: take a conversion to MLX (mlx-community on Hugging Face has them), or make one from "
        "the original, unquantised weights with mlx-qwen convert"
    )


_MODE_BITS = {"mxfp4": 4, "mxfp8": 8, "nvfp4": 4}


def unpacked_bytes(weights: Mapping[str, mx.array], layers: Mapping[str, Packing], dtype: mx.Dtype) -> int:
    """Estimate the bytes of all weights once unpacked, before anything is read."""
    elements = 0
    for name, array in weights.items():
        layer, _, part = name.rpartition(".")
        packing = layers.get(layer)
        if packing is None or part == "bias":
            elements += array.size
        elif part == "weight":
            bits = packing.bits or _MODE_BITS.get(packing.mode, 4)
            elements += array.nbytes * 8 // bits
    return elements * dtype.size


def unpack(weights: dict[str, mx.array], layers: Mapping[str, Packing], dtype: mx.Dtype) -> dict[str, mx.array]:
    """Replace packed weights by plain ones, and evaluate them one by one to keep the peak low.

    Raises:
        ModelLoadError: If a layer is not packed as the configuration says.
    """
    plain = dict(weights)
    for layer, packing in layers.items():
        packed, scales, biases = (plain.pop(f"{layer}.{part}", None) for part in ("weight", "scales", "biases"))
        if packed is None or scales is None:
            continue  # the weight is then missing, which the loader reports for all layers at once
        if biases is not None:
            # MLX computes in the type of the scales, so half precision would round every weight.
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        try:
            weight = mx.dequantize(packed, scales, biases, **asdict(packing), dtype=dtype)
        except ValueError as error:
            raise _misfit(f"layer {layer}", error) from error
        mx.eval(weight)
        plain[f"{layer}.weight"] = weight
    return plain


def _misfit(what: str, error: ValueError) -> ModelLoadError:
    message = f"{what} is not quantised as 'quantization' in config.json says ({error}): copy both from the same repository"
    return ModelLoadError(message)


def quantize_modules(model: nn.Module, layers: Mapping[str, Packing]) -> None:
    """Replace the named layers of a fresh model by quantised ones, so that packed weights can be loaded into them.

    Raises:
        ModelLoadError: If MLX cannot pack a layer as the configuration says.
    """

    def packing_of(name: str, _module: nn.Module) -> bool | dict[str, Any]:
        return asdict(layers[name]) if name in layers else False

    try:
        nn.quantize(model, class_predicate=packing_of)
    except ValueError as error:
        raise _misfit("the model", error) from error
