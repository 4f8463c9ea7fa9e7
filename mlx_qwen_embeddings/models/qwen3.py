"""Qwen3 as an encoder: the decoder-only transformer of arXiv:2505.09388, without its language-model head.

Attributes are named as in the checkpoint. Shapes: B texts, L tokens, D hidden, H query heads, K key/value heads, d head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
from mlx import nn

from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.models.activations import silu
from mlx_qwen_embeddings.models.attention import causal_attention

IGNORED = ("lm_head.", "rotary_emb.inv_freq")
"""Known extras of checkpoints: the head of the language model, and a buffer that old exports saved."""


@dataclass(frozen=True, slots=True)
class Args:
    """The part of ``config.json`` that shapes the model."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    attention_bias: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a parsed ``config.json``.

        Raises:
            ModelLoadError: When a value is missing, or asks for a variant that this encoder does not compute.
        """
        _refuse_variants(config)
        values: dict[str, Any] = {name: config.get(name) for name in cls.__dataclass_fields__}
        # Transformers 5 nests the base of the rotary embedding.
        values["rope_theta"] = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta")
        values["attention_bias"] = bool(config.get("attention_bias"))
        missing = [name for name, value in values.items() if value is None]
        if missing:
            message = f"config.json of this Qwen3 model lacks {', '.join(missing)}: copy the original model's config.json"
            raise ModelLoadError(message)
        return cls(**values)


def _refuse_variants(config: Mapping[str, Any]) -> None:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind != "default":
        message = f"config.json asks for rope scaling {kind!r}, which is not supported: only plain rotary embeddings are"
        raise ModelLoadError(message)
    if config.get("use_sliding_window"):
        message = "config.json asks for sliding-window attention, which is not supported for embeddings"
        raise ModelLoadError(message)
    if config.get("hidden_act", "silu") != "silu":
        message = f"config.json asks for activation {config['hidden_act']!r}: Qwen3 computes 'silu'"
        raise ModelLoadError(message)


class Attention(nn.Module):
    """Grouped-query attention with RMS-normalised queries and keys."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = args.num_attention_heads, args.num_key_value_heads, args.head_dim
        self.rope_theta = args.rope_theta
        query, key_value, bias = self.heads * self.head_dim, self.kv_heads * self.head_dim, args.attention_bias
        self.q_proj = nn.Linear(args.hidden_size, query, bias=bias)
        self.k_proj = nn.Linear(args.hidden_size, key_value, bias=bias)
        self.v_proj = nn.Linear(args.hidden_size, key_value, bias=bias)
        self.o_proj = nn.Linear(query, args.hidden_size, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=args.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.head_dim, eps=args.rms_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        q = self._rotate(self.q_norm(self._split(self.q_proj(x), self.heads)))  # (B, H, L, d)
        k = self._rotate(self.k_norm(self._split(self.k_proj(x), self.kv_heads)))  # (B, K, L, d)
        v = self._split(self.v_proj(x), self.kv_heads)
        out = causal_attention(q, k, v, scale=self.head_dim**-0.5)
        return self.o_proj(out.transpose(0, 2, 1, 3).flatten(2))

    def _split(self, x: mx.array, heads: int) -> mx.array:
        return x.reshape(*x.shape[:2], heads, self.head_dim).transpose(0, 2, 1, 3)

    def _rotate(self, x: mx.array) -> mx.array:
        return mx.fast.rope(x, self.head_dim, traditional=False, base=self.rope_theta, scale=1.0, offset=0)


class MLP(nn.Module):
    """SwiGLU feed-forward, arXiv:2002.05202."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(args.hidden_size, args.intermediate_size, bias=False)
        self.up_proj = nn.Linear(args.hidden_size, args.intermediate_size, bias=False)
        self.down_proj = nn.Linear(args.intermediate_size, args.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-normalised transformer block."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.self_attn = Attention(args)
        self.mlp = MLP(args)
        self.input_layernorm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [Layer(args) for _ in range(args.num_hidden_layers)]
        self.norm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:  # noqa: ARG002 - causal: padding on the right is never seen
        """Give the hidden states after the last norm.

        Args:
            ids: Token ids padded on the right; shape (B, L).
            lengths: Real tokens of each row; shape (B,). Not needed here.

        Returns:
            Shape (B, L, D).
        """
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        hidden: mx.array = self.norm(x)
        return hidden


def sanitize(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Bring the names of official and mlx-community checkpoints to this module's: no ``model.`` prefix, no head."""
    stripped = {name.removeprefix("model."): value for name, value in weights.items()}
    return {name: value for name, value in stripped.items() if not name.startswith(IGNORED[0]) and IGNORED[1] not in name}
