"""Checkpoints that others quantised (AWQ, GPTQ, compressed-tensors), brought to MLX's form without a new rounding.

All three store whole numbers q with a scale s and a zero z a group, and mean (q - z) s; MLX means q s + b, so b = -z s.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import mlx.core as mx

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.errors import ModelLoadError

GROUPS = (32, 64, 128)
"""What MLX's affine mode can have as a group."""

BITS = (2, 4, 8)
"""Widths that these formats pack as MLX does: from the lowest bits of a word up, none across two words."""

Arrays = dict[str, mx.array]


def translate(config: Mapping[str, Any], weights: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Give configuration and weights in MLX's form; those that are in it, or are not quantised, come back as they are.

    Raises:
        ModelLoadError: When the format, or the way a layer is packed, cannot be brought to MLX's form.
        MissingExtraError: When AWQ weights are read without mlx-lm.
    """
    said = config.get("quantization_config") or {}
    method = said.get("quant_method")
    if method is None or config.get("quantization"):
        return dict(config), weights
    if method not in _READERS:
        message = (
            f"the weights are quantised with {method!r}, which is not read; of other formats {', '.join(_READERS)} are "
            "read: take one of these, the plain model, or one in MLX's form"
        )
        raise ModelLoadError(message)
    suffix, read = _READERS[method]
    translated, packings = dict(weights), {}
    for layer in [name.removesuffix(suffix) for name in weights if name.endswith(suffix)]:
        start = f"{layer}."
        parts = {name.removeprefix(start): translated.pop(name) for name in weights if name.startswith(start)}
        try:
            made, packings[layer] = read(parts, said)
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            message = (
                f"layer {layer} is quantised with {method!r} in a way that is not read ({error}): take the plain model, or "
                "one in MLX's form"
            )
            raise ModelLoadError(message) from error
        translated |= {f"{layer}.{part}": array for part, array in made.items()}
    return {**config, "quantization": packings}, translated


def _awq_or_gptq(parts: Arrays, said: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    # A row of scales has an entry an output. AWQ packs eight outputs into a word, GPTQ eight inputs.
    outputs = parts["scales"].shape[1]
    if parts["qweight"].shape[1] == outputs:
        return _gptq(parts, said)
    if parts["qweight"].shape[1] * 8 == outputs:
        return _awq(parts, said)
    raise ValueError(f"qweight of shape {parts['qweight'].shape} with scales of {parts['scales'].shape}")


def _awq(parts: Arrays, said: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    transform = getattr(require("mlx_lm.utils", "convert", "Reading AWQ weights"), "_transform_awq_weights", None)
    if transform is None:
        raise ValueError("this version of mlx-lm cannot read AWQ: pip install --upgrade mlx-lm")
    inputs = parts["qweight"].shape[0]
    packing = _packing(int(said.get("bits", said.get("w_bit", 4))), inputs, parts["scales"].shape[0])
    kept = {name: array for name, array in parts.items() if name == "bias"}
    # In float32, since mlx-lm rounds the product of zero and scale to the type of the scales.
    made, _ = transform({f"x.{name}": _wide(array) for name, array in parts.items() if name not in kept}, packing)
    return kept | {name.removeprefix("x."): array for name, array in made.items()}, packing


def _gptq(parts: Arrays, said: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    # Not through mlx-lm, which takes the layout of AWQ for granted and refuses every file with a g_idx: all have one.
    bits = int(said["bits"])
    words = parts["qweight"]
    inputs = words.shape[0] * 32 // bits
    packing = _packing(bits, inputs, parts["scales"].shape[0])
    order = mx.arange(inputs) // packing["group_size"]
    if "g_idx" in parts and not mx.array_equal(parts["g_idx"], order).item():
        raise ValueError("its groups are not of neighbours (desc_act, act-order), which MLX has no form for")
    # The first version of the format stores every zero less one.
    shift = 0 if said.get("checkpoint_format") == "gptq_v2" else 1
    zeros = _unpacked(parts["qzeros"], bits) + shift
    return _made(parts, words.T, parts["scales"].T, zeros.T), packing


def _compressed(parts: Arrays, said: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    # Not through mlx-lm, which renames these tensors in the models of DeepSeek, Kimi and Mistral alone.
    words, scales, form = parts["weight_packed"], parts["weight_scale"], said.get("format")
    if form == "mxfp4-pack-quantized":
        kept = {name: array for name, array in parts.items() if name == "bias"}
        made = {"weight": mx.contiguous(words).view(mx.uint32), "scales": scales.view(mx.uint8)}
        return kept | made, {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    if form != "pack-quantized":
        raise ValueError(f"its format is {form!r}; read are 'pack-quantized' and 'mxfp4-pack-quantized'")
    if "weight_g_idx" in parts:
        raise ValueError("its groups are not of neighbours (actorder), which MLX has no form for")
    outputs, inputs = cast("list[int]", parts["weight_shape"].tolist())
    bits = words.shape[1] * 32 // inputs
    # Signed numbers are stored with half their range added, and so are the zeros.
    zeros = mx.full(scales.shape, 2 ** (bits - 1))
    if "weight_zero_point" in parts:
        zeros = _unpacked(parts["weight_zero_point"].T, bits).T[:outputs]
    return _made(parts, words, scales, zeros), _packing(bits, inputs, scales.shape[1])


_READERS: dict[str, tuple[str, Callable[[Arrays, Mapping[str, Any]], tuple[Arrays, dict[str, Any]]]]] = {
    "awq": (".qweight", _awq_or_gptq),
    "gptq": (".qweight", _awq_or_gptq),
    "compressed-tensors": (".weight_packed", _compressed),
}
"""By ``quant_method``: how the name of the packed array ends, and what reads a layer."""


def _packing(bits: int, inputs: int, groups: int) -> dict[str, Any]:
    if bits not in BITS:
        raise ValueError(f"it has {bits} bits; read are {', '.join(map(str, BITS))}")
    if inputs % groups or inputs // groups not in GROUPS:
        raise ValueError(f"{groups} groups for {inputs} inputs; MLX has groups of {', '.join(map(str, GROUPS))}")
    return {"group_size": inputs // groups, "bits": bits}


def _made(parts: Arrays, words: mx.array, scales: mx.array, zeros: mx.array) -> Arrays:
    scales = mx.contiguous(scales).astype(mx.float32)
    made = {"weight": mx.contiguous(words).view(mx.uint32), "scales": scales, "biases": -zeros.astype(mx.float32) * scales}
    return made | ({"bias": parts["bias"]} if "bias" in parts else {})


def _unpacked(words: mx.array, bits: int) -> mx.array:
    shifts = mx.arange(0, 32, bits, dtype=mx.uint32)
    numbers: mx.array = (mx.contiguous(words).view(mx.uint32)[..., None] >> shifts) & (2**bits - 1)
    return numbers.flatten(-2).astype(mx.int32)


def _wide(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array
