"""Qwen3 as an encoder: the decoder-only transformer of arXiv:2505.09388, without its language-model head.

Attributes are named as in the checkpoint. Shapes: B texts, L tokens, D hidden size, H query heads, K key/value heads, d
size of a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
from mlx import nn

from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.models.activations import settled, silu
from mlx_qwen_embeddings.models.attention import KeysValues, causal_attention
from mlx_qwen_embeddings.models.layers import Linear

IGNORED = ("lm_head.", "rotary_emb.inv_freq")
"""Tensors to ignore: the head of the language model, and a buffer that old exports saved."""


@dataclass(frozen=True, slots=True)
class Args:
    """The values of ``config.json`` that define the model."""

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
            ModelLoadError: If a value is missing, or asks for a variant that this encoder does not compute.
        """
        _refuse_variants(config)
        values: dict[str, Any] = {name: config.get(name) for name in cls.__dataclass_fields__}
        values["rope_theta"] = _rope(config).get("rope_theta") or config.get("rope_theta")
        values["attention_bias"] = bool(config.get("attention_bias"))
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise ModelLoadError(
                f"config.json of this Qwen3 model lacks {', '.join(missing)}: copy the original model's config.json"
            )
        return cls(**values)


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    # transformers 5 nests the base of the rotary embedding here, and a nested value wins over one beside it.
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _refuse_variants(config: Mapping[str, Any]) -> None:
    kind = _rope(config).get("rope_type") or _rope(config).get("type") or "default"
    if kind != "default":
        raise ModelLoadError(
            f"config.json asks for rope scaling {kind!r}, which is not supported: take the scaling out of it"
        )
    if config.get("use_sliding_window"):
        raise ModelLoadError(
            "config.json asks for sliding-window attention, which is not supported: use_sliding_window must be false"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ModelLoadError(
            f"config.json asks for activation {config['hidden_act']!r}, but Qwen3 computes 'silu': copy the original "
            "model's config.json"
        )


class Attention(nn.Module):
    """Grouped-query attention with RMS-normalised queries and keys."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = args.num_attention_heads, args.num_key_value_heads, args.head_dim
        self.rope_theta = args.rope_theta
        query, key_value, bias = self.heads * self.head_dim, self.kv_heads * self.head_dim, args.attention_bias
        self.q_proj = Linear(args.hidden_size, query, bias=bias)
        self.k_proj = Linear(args.hidden_size, key_value, bias=bias)
        self.v_proj = Linear(args.hidden_size, key_value, bias=bias)
        self.o_proj = Linear(query, args.hidden_size, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=args.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.head_dim, eps=args.rms_norm_eps)

    def __call__(self, x: mx.array, prefix: KeysValues | None = None) -> mx.array:
        """Attend from every token to itself, those before it and the prefix. Takes and returns (B, L, D)."""
        k, v = self.keys_values(x, prefix)
        q = self._queries(x, k.shape[2] - x.shape[1])
        return self._merge(causal_attention(q, k, v, scale=self.head_dim**-0.5))

    def last(self, x: mx.array, lengths: mx.array, prefix: KeysValues | None = None) -> mx.array:
        """Attend only from the last real token of each row. Takes (B, L, D), returns (B, 1, D)."""
        k, v = self.keys_values(x, prefix)
        before = k.shape[2] - x.shape[1]
        q = self._queries(last_rows(x, lengths), lengths - 1 + before)
        seen = (mx.arange(k.shape[2])[None, :] < before + lengths[:, None])[:, None, None, :]
        return self._merge(mx.fast.scaled_dot_product_attention(q, k, v, scale=self.head_dim**-0.5, mask=seen))

    def keys_values(self, x: mx.array, prefix: KeysValues | None = None) -> KeysValues:
        """Return keys and values of a prefix and the tokens after it, each of shape (B, K, P + L, d)."""
        before = 0 if prefix is None else prefix[0].shape[2]
        k = self._rotate(self.k_norm(self._split(self.k_proj(x), self.kv_heads)), before)
        v = self._split(self.v_proj(x), self.kv_heads)
        if prefix is None:
            return k, v
        shape = (x.shape[0], *prefix[0].shape[1:])
        joined = [
            mx.concatenate([mx.broadcast_to(old, shape), new], axis=2) for old, new in zip(prefix, (k, v), strict=True)
        ]
        return joined[0], joined[1]

    def _queries(self, x: mx.array, before: int | mx.array) -> mx.array:
        return self._rotate(self.q_norm(self._split(self.q_proj(x), self.heads)), before)

    def _split(self, x: mx.array, heads: int) -> mx.array:
        return x.reshape(*x.shape[:2], heads, self.head_dim).transpose(0, 2, 1, 3)

    def _merge(self, x: mx.array) -> mx.array:
        out: mx.array = self.o_proj(x.transpose(0, 2, 1, 3).flatten(2))
        return out

    def _rotate(self, x: mx.array, before: int | mx.array) -> mx.array:
        return mx.fast.rope(x, self.head_dim, traditional=False, base=self.rope_theta, scale=1.0, offset=before)


def last_rows(x: mx.array, lengths: mx.array) -> mx.array:
    """Pick the last real token of each row. Takes (B, L, D), returns (B, 1, D)."""
    return x[mx.arange(x.shape[0]), lengths - 1][:, None]


class MLP(nn.Module):
    """SwiGLU feed-forward, arXiv:2002.05202."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.gate_proj = Linear(args.hidden_size, args.intermediate_size, bias=False)
        self.up_proj = Linear(args.hidden_size, args.intermediate_size, bias=False)
        self.down_proj = Linear(args.intermediate_size, args.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One transformer block with pre-normalisation."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.self_attn = Attention(args)
        self.mlp = MLP(args)
        self.input_layernorm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)

    def __call__(self, x: mx.array, prefix: KeysValues | None = None) -> mx.array:
        return self._feed(x + self.self_attn(self.input_layernorm(x), prefix))

    def last(self, x: mx.array, lengths: mx.array, prefix: KeysValues | None = None) -> mx.array:
        """Compute only the last real token of each row. Takes (B, L, D), returns (B, 1, D)."""
        return self._feed(last_rows(x, lengths) + self.self_attn.last(self.input_layernorm(x), lengths, prefix))

    def keys_values(self, x: mx.array) -> KeysValues:
        """Return the keys and values that later tokens attend to."""
        return self.self_attn.keys_values(self.input_layernorm(x))

    def _feed(self, x: mx.array) -> mx.array:
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """A Qwen3 encoder: token ids in, hidden states out."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [Layer(args) for _ in range(args.num_hidden_layers)]
        self.norm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:  # noqa: ARG002 - causal, so no token sees the padding on its right
        """Return the hidden states after the last norm: the plain path, against which the others are tested.

        Args:
            ids: Token ids padded on the right; shape (B, L).
            lengths: Real tokens of each row; shape (B,). Not used here.

        Returns:
            Shape (B, L, D).
        """
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = settled(layer(x))
        hidden: mx.array = self.norm(x)
        return hidden

    def last_hidden(self, ids: mx.array, lengths: mx.array, prefix: Sequence[KeysValues] | None = None) -> mx.array:
        """Return the hidden state of each row's last real token.

        The last layer computes keys and values of all tokens, and everything else only for the last token of each row.

        Args:
            ids: Token ids after the prefix, padded on the right; shape (B, L).
            lengths: Real tokens of each row, without the prefix; shape (B,).
            prefix: What ``prefill`` returned for the tokens before every row; None if there are none.

        Returns:
            Shape (B, D).
        """
        before: Sequence[KeysValues | None] = prefix or [None] * len(self.layers)
        x = self.embed_tokens(ids)
        for layer, cached in zip(self.layers[:-1], before, strict=False):
            x = settled(layer(x, cached))
        hidden: mx.array = self.norm(self.layers[-1].last(x, lengths, before[-1]))
        return hidden[:, 0]

    def prefill(self, ids: mx.array) -> list[KeysValues]:
        """Return each layer's keys and values for a prefix that many texts share; ``ids`` has shape (1, P)."""
        x, cached = self.embed_tokens(ids), []
        for layer in self.layers:
            cached.append(layer.keys_values(x))
            x = layer(x)
        return cached


def sanitize(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Rename the tensors of official and mlx-community checkpoints to this module's names: no ``model.``, no head."""
    stripped = {name.removeprefix("model."): value for name, value in weights.items()}
    return {name: value for name, value in stripped.items() if not name.startswith(IGNORED[0]) and IGNORED[1] not in name}
