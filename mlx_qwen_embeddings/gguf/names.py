"""llama.cpp's names of tensors, and the checkpoint's names for the same.

Source: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py
"""

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
