"""BERT as an encoder, arXiv:1810.04805, without pooler and heads: all-MiniLM, BGE, E5, mxbai-embed, Snowflake Arctic.

Attributes are named as in the checkpoint. Shapes: B texts, L tokens, D hidden size, H heads, d size of a head.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
from mlx import nn

from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.models.activations import gelu, gelu_tanh, settled
from mlx_qwen_embeddings.models.attention import padded_attention
from mlx_qwen_embeddings.models.layers import Linear

IGNORED = re.compile(r"(cls|pooler)\..*|embeddings\.position_ids")
"""Tensors to ignore: the heads used in pretraining, the pooler, and a buffer that old exports saved."""

ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_tanh}


@dataclass(frozen=True, slots=True)
class Args:
    """The values of ``config.json`` that define the model."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a parsed ``config.json``.

        Raises:
            ModelLoadError: If a value is missing, or asks for a variant that this encoder does not compute.
        """
        values: dict[str, Any] = {name: config.get(name) for name in cls.__dataclass_fields__}
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise ModelLoadError(
                f"config.json of this BERT model lacks {', '.join(missing)}: copy the original model's config.json"
            )
        args = cls(**values)
        _refuse_variants(config, args)
        return args


def _refuse_variants(config: Mapping[str, Any], args: Args) -> None:
    positions = config.get("position_embedding_type") or "absolute"
    reason = None
    if positions != "absolute":
        reason = f"position embeddings {positions!r}, which are not supported: only 'absolute' are"
    elif args.hidden_act not in ACTIVATIONS:
        reason = f"activation {args.hidden_act!r}, which is not supported: only {', '.join(map(repr, ACTIVATIONS))} are"
    elif config.get("is_decoder"):
        reason = "a decoder ('is_decoder'), which is not supported: only encoders are"
    elif args.hidden_size % args.num_attention_heads:
        reason = f"{args.num_attention_heads} heads, which do not divide hidden_size={args.hidden_size}: it is broken"
    if reason:
        raise ModelLoadError(f"config.json of this BERT model asks for {reason}")


class Embeddings(nn.Module):
    """The sum of word, position and token type embeddings. The type is always 0, that of a single text."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(args.vocab_size, args.hidden_size)
        self.position_embeddings = nn.Embedding(args.max_position_embeddings, args.hidden_size)
        self.token_type_embeddings = nn.Embedding(args.type_vocab_size, args.hidden_size)
        self.LayerNorm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)

    def __call__(self, ids: mx.array) -> mx.array:
        positions = self.position_embeddings(mx.arange(ids.shape[1])) + self.token_type_embeddings(mx.array([0]))
        summed: mx.array = self.LayerNorm(self.word_embeddings(ids) + positions)
        return summed


class SelfAttention(nn.Module):
    """Multi-head attention without its output projection."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.heads, self.head_dim = args.num_attention_heads, args.hidden_size // args.num_attention_heads
        self.query = Linear(args.hidden_size, args.hidden_size)
        self.key = Linear(args.hidden_size, args.hidden_size)
        self.value = Linear(args.hidden_size, args.hidden_size)

    def __call__(self, x: mx.array, lengths: mx.array) -> mx.array:
        q, k, v = (self._split(project(x)) for project in (self.query, self.key, self.value))  # (B, H, L, d)
        out = padded_attention(q, k, v, lengths, scale=self.head_dim**-0.5)
        return out.transpose(0, 2, 1, 3).flatten(2)

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self.heads, self.head_dim).transpose(0, 2, 1, 3)


class Output(nn.Module):
    """Projection, residual and norm, which end both halves of a layer."""

    def __init__(self, inputs: int, args: Args) -> None:
        super().__init__()
        self.dense = Linear(inputs, args.hidden_size)
        self.LayerNorm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        out: mx.array = self.LayerNorm(self.dense(x) + residual)
        return out


class Attention(nn.Module):
    """The first half of a layer: attention with its output projection."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.self = SelfAttention(args)
        self.output = Output(args.hidden_size, args)

    def __call__(self, x: mx.array, lengths: mx.array) -> mx.array:
        return self.output(self.self(x, lengths), x)


class Intermediate(nn.Module):
    """The first projection of the feed-forward, with its activation."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.dense = Linear(args.hidden_size, args.intermediate_size)
        self.activation = ACTIVATIONS[args.hidden_act]

    def __call__(self, x: mx.array) -> mx.array:
        return self.activation(self.dense(x))


class Layer(nn.Module):
    """One transformer block with post-normalisation."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.intermediate = Intermediate(args)
        self.output = Output(args.intermediate_size, args)

    def __call__(self, x: mx.array, lengths: mx.array) -> mx.array:
        x = self.attention(x, lengths)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.layer = [Layer(args) for _ in range(args.num_hidden_layers)]

    def __call__(self, x: mx.array, lengths: mx.array) -> mx.array:
        for layer in self.layer:
            x = settled(layer(x, lengths))
        return x


class Model(nn.Module):
    """A BERT encoder: token ids in, hidden states out."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.embeddings = Embeddings(args)
        self.encoder = Encoder(args)

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """Return the hidden states of the last layer. Those of padding are meaningless but finite.

        Args:
            ids: Token ids padded on the right; shape (B, L).
            lengths: Real tokens of each row; shape (B,).

        Returns:
            Shape (B, L, D).
        """
        return self.encoder(self.embeddings(ids), lengths)


def sanitize(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Rename a checkpoint's tensors to this module's names: no ``bert.`` prefix, no heads, current names of norms."""
    named = {_name(name): value for name, value in weights.items()}
    return {name: value for name, value in named.items() if not IGNORED.fullmatch(name)}


def _name(name: str) -> str:
    # The first checkpoints, such as bert-base-uncased, come from TensorFlow, which says gamma and beta.
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
