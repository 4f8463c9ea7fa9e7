"""A checkpoint of the 0.6B's shape with seeded random weights in float32, which every peer can load."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.qwen3_tokenizer import write_tokenizer

SHAPE = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
KEY_VALUE_HEADS, HEAD, VOCABULARY, END = 8, 128, 151_669, 151_643

CONFIG = SHAPE | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_key_value_heads": KEY_VALUE_HEADS,
    "head_dim": HEAD,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "max_position_embeddings": 32_768,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "eos_token_id": END,
}
PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

FILES = {
    "config.json": CONFIG,
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 131_072,
    },
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "config_sentence_transformers.json": {"prompts": {"query": PROMPT, "document": ""}, "similarity_fn_name": "cosine"},
    "1_Pooling/config.json": {"word_embedding_dimension": 1024, "pooling_mode_lasttoken": True, "include_prompt": True},
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Give the shape of every array, in the official layout."""
    hidden, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    query, key_value = SHAPE["num_attention_heads"] * HEAD, KEY_VALUE_HEADS * HEAD
    named: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (VOCABULARY, hidden), "norm.weight": (hidden,)}
    for layer in range(SHAPE["num_hidden_layers"]):
        parts: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_norm": (HEAD,),
            "self_attn.k_norm": (HEAD,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key_value, hidden),
            "self_attn.v_proj": (key_value, hidden),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        named |= {f"layers.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return named


def make(folder: Path, prefix: str = "") -> Path:
    """Write the checkpoint unless it is there, and give its folder.

    Args:
        folder: Where it goes; 2.4 GB.
        prefix: In front of the names: mlx-lm reads none but "model.".
    """
    if (folder / "model.safetensors").exists():
        return folder
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_text(json.dumps(content))
    write_tokenizer(folder)
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes().items():
        noise = rng.standard_normal(shape, dtype=np.float32)
        # Matrices keep the size of what goes through them.
        arrays[prefix + name] = 1 + 0.1 * noise if len(shape) == 1 else noise / np.float32(np.sqrt(shape[1]))
    save_file(arrays, folder / "partial.safetensors", metadata={"format": "pt"})
    (folder / "partial.safetensors").rename(folder / "model.safetensors")
    return folder
