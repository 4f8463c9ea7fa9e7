"""Write tiny Qwen3 checkpoints with random weights, in every form that a folder can have. Needs no torch.

The weights come from the raw bits of PCG64. numpy promises never to change them, so a seed always means the same weights.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.registry import NANO_FOLDER

Weights = dict[str, NDArray[np.float32]]

NANO_CONFIG = json.loads((NANO_FOLDER / "config.json").read_bytes())
NANO_ENTRIES: int = NANO_CONFIG["vocab_size"]
NANO_END: int = NANO_CONFIG["eos_token_id"]
"""Read from the model and not written here, because the embedded model may change."""

FIRST_NANO = "cba35b7bd2a49f4fd2cef11c380f0d1f"
"""Fingerprint of the first model in the package, whose weights had the SHA-256 450c7bd6..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a model. The defaults all differ, so that a test notices if two are swapped."""

    hidden_size: int = 48
    intermediate_size: int = 112
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 20
    vocab_size: int = 1024
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False

    def config(self, **changes: Any) -> dict[str, Any]:
        """Return the content of ``config.json``. A change to None removes the key."""
        config = asdict(self) | {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        }
        return {name: value for name, value in (config | changes).items() if value is not None}


WITH_TOKENIZER = Shape(vocab_size=NANO_ENTRIES)
"""With a row for every id of the embedded model's tokenizer."""

PACKABLE = Shape(hidden_size=64, intermediate_size=192, head_dim=32)
"""The width of every matrix is a multiple of 64, the group size of MLX's affine quantisation."""


def random_weights(shape: Shape, seed: int = 0) -> Weights:
    """Draw the weights, named as in the official checkpoints: no ``model.`` prefix."""
    bits = np.random.PCG64(seed)

    def uniform(*size: int, scale: float) -> NDArray[np.float32]:
        # 24 bits fit exactly into a float32, so nothing is rounded differently on another machine.
        raw = (bits.random_raw(math.prod(size)) >> np.uint64(40)).astype(np.float64) / 2**23 - 1
        return (raw * scale).astype(np.float32).reshape(size)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return uniform(rows, columns, scale=math.sqrt(3 / columns))

    def norm(size: int) -> NDArray[np.float32]:
        return 1 + uniform(size, scale=0.5)

    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key_value = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    weights = {"embed_tokens.weight": uniform(shape.vocab_size, hidden, scale=1.0), "norm.weight": norm(hidden)}
    for layer in range(shape.num_hidden_layers):
        parts = {
            "input_layernorm.weight": norm(hidden),
            "post_attention_layernorm.weight": norm(hidden),
            "self_attn.q_norm.weight": norm(shape.head_dim),
            "self_attn.k_norm.weight": norm(shape.head_dim),
            "mlp.gate_proj.weight": matrix(inner, hidden),
            "mlp.up_proj.weight": matrix(inner, hidden),
            "mlp.down_proj.weight": matrix(hidden, inner),
        }
        for name, rows, columns in (
            ("q_proj", query, hidden),
            ("k_proj", key_value, hidden),
            ("v_proj", key_value, hidden),
            ("o_proj", hidden, query),
        ):
            parts[f"self_attn.{name}.weight"] = matrix(rows, columns)
            if shape.attention_bias:
                parts[f"self_attn.{name}.bias"] = uniform(rows, scale=0.5)
        weights |= {f"layers.{layer}.{name}": value for name, value in parts.items()}
    return weights


def write_checkpoint(
    folder: Path,
    weights: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    prefix: str = "",
    shards: int = 1,
) -> Path:
    """Write a model folder with the embedded model's tokenizer, and return its path.

    Args:
        folder: Created if it does not exist.
        weights: Arrays of numpy or MLX.
        config: ``config.json``.
        prefix: Put in front of every name except those of ``lm_head``.
        shards: Number of files for the weights; with several there is an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    named = {name if name.startswith("lm_head") else prefix + name: mx.array(value) for name, value in weights.items()}
    if shards == 1:
        save(folder / "model.safetensors", named)
    else:
        _save_shards(folder, named, shards)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(NANO_FOLDER / name, folder / name)
    return folder


def _save_shards(folder: Path, weights: Mapping[str, mx.array], shards: int) -> None:
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        piece = names[shard::shards]
        save(folder / file, {name: weights[name] for name in piece})
        weight_map |= dict.fromkeys(piece, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def save(path: Path, weights: Mapping[str, Any]) -> None:
    """Write one safetensors file."""
    # transformers refuses files that do not name their framework.
    mx.save_safetensors(str(path), {name: mx.array(value) for name, value in weights.items()}, metadata={"format": "pt"})


def pack(
    weights: Mapping[str, Any], *, mode: str, bits: int, group_size: int, only: str = "", scales: mx.Dtype = mx.float32
) -> dict[str, mx.array]:
    """Quantise every matrix whose name contains ``only``, as MLX's converters do.

    Args:
        weights: Plain arrays by name.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4".
        bits: Bits per weight.
        group_size: Weights that share a scale.
        only: Part of the name; "" takes all.
        scales: Type of the scales in the affine mode, bfloat16 in most conversions.
    """
    packed = {}
    for name, value in weights.items():
        array = mx.array(value)
        if array.ndim != 2 or only not in name or array.dtype == mx.uint32 or not name.endswith(".weight"):
            packed[name] = array
            continue
        parts = mx.quantize(array, group_size=group_size, bits=bits, mode=mode)
        layer = name.removesuffix(".weight")
        packed[name] = parts[0]
        packed[f"{layer}.scales"] = parts[1].astype(scales) if mode == "affine" else parts[1]
        if mode == "affine":
            packed[f"{layer}.biases"] = parts[2].astype(scales)
    return packed


def write_unpacked(folder: Path, source: Path = NANO_FOLDER) -> Path:
    """Write a float32 copy of a quantised folder, with all other files the same."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text())
    said = config.pop("quantization")
    (folder / "config.json").write_text(json.dumps(config))
    weights = cast("dict[str, mx.array]", mx.load(str(source / "model.safetensors")))
    plain = {}
    for name, value in weights.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.scales" in weights and name.endswith(".weight"):
            how = said.get(f"model.{layer}", said)
            scales, biases = (weights[f"{layer}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            plain[name] = mx.dequantize(value, scales, biases, how["group_size"], how["bits"])
        elif not name.endswith((".scales", ".biases")):
            plain[name] = value
    save(folder / "model.safetensors", plain)
    return folder
