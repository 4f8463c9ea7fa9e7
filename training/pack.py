"""Step 4: write the student's weights and tokenizer as a model folder, in float32 or MLX's affine quantisation."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from tokenizers import Tokenizer

from training.config import EOS, ModelShape
from training.tokenizer import eos_id

GROUP_SIZE = 64
FULL_PRECISION = 32
TABLE = "embed_tokens."


def shape_of(weights: Mapping[str, mx.array]) -> ModelShape:
    """Return a model's shape from its weights. What the weights do not show keeps its default."""
    vocab_size, hidden_size = weights["embed_tokens.weight"].shape
    head_dim = weights["layers.0.self_attn.q_norm.weight"].shape[0]
    return ModelShape(
        hidden_size=hidden_size,
        layers=sum(name.endswith(".input_layernorm.weight") for name in weights),
        heads=weights["layers.0.self_attn.q_proj.weight"].shape[0] // head_dim,
        kv_heads=weights["layers.0.self_attn.k_proj.weight"].shape[0] // head_dim,
        head_dim=head_dim,
        feed_forward=weights["layers.0.mlp.gate_proj.weight"].shape[0],
        vocab_size=vocab_size,
    )


def quantize(weights: Mapping[str, mx.array], bits: int, table_bits: int) -> dict[str, mx.array]:
    """Quantise every matrix, which adds `x.scales` and `x.biases` to `x.weight`. Norms are vectors and stay as they are.

    Scales and biases are stored in half precision, a sixteenth of the size of 8-bit weights, and used in float32.

    Args:
        weights: The student's weights.
        bits: Bits per weight of the layers.
        table_bits: Bits per weight of the embedding table.
    """
    packed: dict[str, mx.array] = {}
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            packed[name] = weight
            continue
        stem = name.removesuffix("weight")
        width = table_bits if stem == TABLE else bits
        packed[name], *scales = mx.quantize(weight, group_size=GROUP_SIZE, bits=width)
        packed[f"{stem}scales"], packed[f"{stem}biases"] = (part.astype(mx.float16) for part in scales)
    return packed


def pack(weights_file: Path, tokenizer_file: Path, out: Path, bits: int = 8, table_bits: int | None = None) -> None:
    """Write a folder that this package can open and, in float32, sentence-transformers too.

    Args:
        weights_file: The student's float32 weights, safetensors.
        tokenizer_file: Its tokenizer.
        out: Folder to write; created if missing.
        bits: 32 for unquantised weights, else the bits of MLX's affine quantisation.
        table_bits: Bits of the embedding table; None takes `bits`.

    Raises:
        ValueError: If the tokenizer has more entries than the embedding table, or no EOS token.
    """
    weights = cast("dict[str, mx.array]", mx.load(str(weights_file)))
    shape = shape_of(weights)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    if tokenizer.get_vocab_size() > shape.vocab_size:
        raise ValueError(
            f"{tokenizer_file} does not belong to {weights_file}: "
            f"it has {tokenizer.get_vocab_size()} entries for {shape.vocab_size} embeddings"
        )
    (out / "1_Pooling").mkdir(parents=True, exist_ok=True)
    said = None if bits == FULL_PRECISION else quantization(bits, table_bits or bits)
    packed = quantize(weights, bits, table_bits or bits) if said else weights
    # Sorted by name, so that equal weights give an equal file.
    mx.save_safetensors(str(out / "model.safetensors"), dict(sorted(packed.items())), metadata={"format": "mlx"})
    shutil.copyfile(tokenizer_file, out / "tokenizer.json")
    for name, content in _settings(shape, eos_id(tokenizer), said).items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def quantization(bits: int, table_bits: int) -> dict[str, Any]:
    """Return the `quantization` entry of `config.json`, as mlx-lm writes it if layers differ."""
    said: dict[str, Any] = {"group_size": GROUP_SIZE, "bits": bits}
    return said if table_bits == bits else said | {f"model.{TABLE}"[:-1]: {"group_size": GROUP_SIZE, "bits": table_bits}}


def _settings(shape: ModelShape, eos: int, packing: dict[str, Any] | None) -> dict[str, Any]:
    """Return every JSON file of the folder by name, except the tokenizer."""
    return {
        "config.json": model_config(shape, eos, packing),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "pad_token": EOS,
            "model_max_length": shape.max_positions,
            "clean_up_tokenization_spaces": False,
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": shape.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def model_config(shape: ModelShape, eos: int, packing: dict[str, Any] | None) -> dict[str, Any]:
    """Return `config.json` as transformers and mlx-lm read it, with `quantization` if the weights are quantised."""
    config: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": shape.max_positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": shape.vocab_size,
    }
    return config | ({"quantization": packing} if packing else {})
