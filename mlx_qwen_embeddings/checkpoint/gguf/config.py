"""The metadata of a GGUF file as the ``config.json`` of the same model would say it."""

from typing import Any

from mlx_qwen_embeddings.checkpoint.gguf.header import Header
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.options import Pooling

MODULES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def checkpoint_name(name: str) -> str:
    """Turn ``blk.3.attn_q.weight`` into ``layers.3.self_attn.q_proj.weight``; an unknown name stays as it is."""
    parts = name.split(".")
    layer = [f"layers.{parts[1]}"] if parts[0] == "blk" else []
    module, *rest = parts[2:] if layer else parts
    if module not in MODULES:
        return name
    return ".".join([*layer, MODULES[module], *rest])


ARCHITECTURES = ("qwen3",)

_KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
}

_POOLING: dict[int, Pooling] = {1: "mean", 2: "first", 3: "last"}
"""llama.cpp's ``llama_pooling_type``; 0 says none, 4 is a reranker."""

_PACKINGS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
"""Bits a weight; the groups have 32."""


def config_of(header: Header) -> dict[str, Any]:
    """Give the configuration.

    Raises:
        ModelLoadError: When the architecture is not served as GGUF, or the file is a piece of a split model.
    """
    if header.architecture not in ARCHITECTURES:
        message = (
            f"{header.path} holds a model of architecture {header.architecture!r}; as GGUF only {', '.join(ARCHITECTURES)} "
            "is served: take the model's safetensors folder"
        )
        raise ModelLoadError(message)
    if header.metadata.get("split.count", 1) > 1:
        message = f"{header.path} is a piece of a split model: put it together with llama-gguf-split --merge"
        raise ModelLoadError(message)
    config = {name: header.own(key) for name, key in _KEYS.items()}
    if "token_embd.weight" in header.tensors:
        config["vocab_size"] = header.tensors["token_embd.weight"].shape[0]
    scaling = header.own("rope.scaling.type", "none")
    return {
        **{name: value for name, value in config.items() if value is not None},
        "model_type": header.architecture,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "rope_scaling": None if scaling == "none" else {"rope_type": scaling},
        "eos_token_id": _end_token_id(header),
        "quantization": _quantization(header),
    }


def pooling_of(header: Header) -> Pooling | None:
    """Give the pooling that the file names; None when it names none.

    Raises:
        ModelLoadError: When it is one that makes no embedding.
    """
    kind = header.own("pooling_type", 0)
    if kind == 0:
        return None
    if kind not in _POOLING:
        message = f"{header.path} asks for pooling_type {kind}, which gives no embedding (4 is a reranker)"
        raise ModelLoadError(message)
    return _POOLING[kind]


def _end_token_id(header: Header) -> int | None:
    # Files of Qwen3-Embedding carry <|im_end|>, the end of a turn of chat, as their eos: the encoder was trained with
    # the padding token at the end of a text.
    tokens = header.metadata.get("tokenizer.ggml.tokens", [])
    named = (header.metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("padding", "eos"))
    known = (token for token in named if isinstance(token, int) and token < len(tokens))
    return next((token for token in known if tokens[token] != "<|im_end|>"), None)


def _quantization(header: Header) -> dict[str, Any]:
    layers = {name: tensor.kind for name, tensor in header.tensors.items() if tensor.kind in _PACKINGS}
    return {
        checkpoint_name(name).removesuffix(".weight"): {"group_size": 32, "bits": _PACKINGS[kind]}
        for name, kind in layers.items()
    }
