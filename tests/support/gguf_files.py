"""Write GGUF files with llama.cpp's own package, from weights with the names of safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.checkpoint.gguf.metadata import MODULES

Weights = Mapping[str, NDArray[np.float32]]

_NAMES = {ours: theirs for theirs, ours in MODULES.items()}


def llama_name(name: str) -> str:
    """Turn ``layers.3.mlp.up_proj.weight`` into ``blk.3.ffn_up.weight``."""
    parts = name.split(".")
    start = 2 if parts[0] == "layers" else 0
    return ".".join([*(["blk", parts[1]] if start else []), _NAMES[".".join(parts[start:-1])], parts[-1]])


def kind_of(value: NDArray[np.float32], kind: str) -> gguf.GGMLQuantizationType:
    """Return the type that llama.cpp's converter gives an array: vectors are never quantised."""
    return gguf.GGMLQuantizationType["F32" if value.ndim == 1 else kind]


def rounded(weights: Weights, kind: str) -> dict[str, NDArray[np.float32]]:
    """Quantise and dequantise as llama.cpp does, in numpy."""
    result = {}
    for name, value in weights.items():
        stored = kind_of(value, kind)
        result[name] = np.asarray(gguf.dequantize(gguf.quantize(value, stored), stored), dtype=np.float32)
    return result


def tokenizer_metadata(path: Path, *, pre: str = "qwen2") -> dict[str, Any]:
    """Return what llama.cpp's converter takes from a ``tokenizer.json`` with byte-level BPE or WordPiece."""
    source = json.loads(path.read_text())
    tokens = {number: token for token, number in source["model"]["vocab"].items()}
    added = {token["id"]: token for token in source["added_tokens"]}
    tokens |= {number: token["content"] for number, token in added.items()}
    kinds = [(3 if added[number]["special"] else 4) if number in added else 1 for number in range(len(tokens))]
    merges = [" ".join(merge) for merge in source["model"].get("merges", ())]
    return ({"tokenizer.ggml.merges": merges} if merges else {}) | {
        "tokenizer.ggml.model": "gpt2" if merges else "bert",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [tokens[number] for number in range(len(tokens))],
        "tokenizer.ggml.token_type": kinds,
    }


def metadata_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a Qwen3 model that correspond to its ``config.json``."""
    return {
        "qwen3.block_count": config["num_hidden_layers"],
        "qwen3.context_length": config["max_position_embeddings"],
        "qwen3.embedding_length": config["hidden_size"],
        "qwen3.feed_forward_length": config["intermediate_size"],
        "qwen3.attention.head_count": config["num_attention_heads"],
        "qwen3.attention.head_count_kv": config["num_key_value_heads"],
        "qwen3.attention.key_length": config["head_dim"],
        "qwen3.attention.value_length": config["head_dim"],
        "qwen3.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "qwen3.rope.freq_base": float(config["rope_theta"]),
        "qwen3.pooling_type": 3,
    }


def write_gguf(
    path: Path, weights: Weights, metadata: Mapping[str, Any], kind: str = "F16", architecture: str = "qwen3"
) -> Path:
    """Write a file and return its path.

    Args:
        path: The file; its folder is made when it is missing.
        weights: Arrays by the names of safetensors files.
        metadata: An int is written as uint32, a list by its items; a value of None is left out.
        kind: Type of every matrix; vectors stay float32.
        architecture: ``general.architecture``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    for name, value in weights.items():
        stored = kind_of(value, kind)
        writer.add_tensor(llama_name(name), gguf.quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
