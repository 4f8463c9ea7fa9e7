"""Where the student starts: the teacher's vectors as embedding table, and a first attention that averages them."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.config import SEED, ModelShape

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3Model


def build(shape: ModelShape, token_vectors: NDArray[np.float16], rotation: NDArray[np.float32], eos: int) -> "Qwen3Model":
    """Return a `transformers` Qwen3 model that is set up to average its tokens' own vectors.

    Args:
        shape: The model's shape; hidden size and vocabulary are those of `token_vectors`.
        token_vectors: The teacher's vector of each vocabulary entry.
        rotation: The teacher's principal axes.
        eos: Id of the token whose state is pooled; its embedding starts at zero.
    """
    import torch
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(SEED)
    model = Qwen3Model(
        Qwen3Config(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=shape.max_positions,
            rope_theta=shape.rope_theta,
            rms_norm_eps=shape.norm_eps,
            tie_word_embeddings=True,
            attention_bias=False,
        )
    )
    with torch.no_grad():
        _start_as_mean(model, torch.tensor(token_vectors).float() @ torch.tensor(rotation), eos)
    return model


def _start_as_mean(model: "Qwen3Model", token_vectors: "torch.Tensor", eos: int) -> None:
    """Set the weights: small residual branches, and a first attention that averages the embeddings.

    19.6 is the square root of the width: RMSNorm has scaled a unit vector up by it. A small `q_norm` makes the
    attention nearly uniform.
    """
    import torch

    width = token_vectors.shape[1]
    model.embed_tokens.weight.copy_(token_vectors * 0.6)
    model.embed_tokens.weight[eos] = 0
    for layer in model.layers:
        layer.self_attn.o_proj.weight.mul_(0.35)
        layer.mlp.down_proj.weight.mul_(0.35)
    first = model.layers[0].self_attn
    eye = torch.eye(width)
    first.v_proj.weight.copy_(eye / 19.6 + torch.randn(width, width) * 0.002)
    first.o_proj.weight.copy_(eye * 2 + torch.randn(width, width) * 0.01)
    first.q_norm.weight.fill_(0.3)
