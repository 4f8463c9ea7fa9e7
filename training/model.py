"""The student in torch: a Qwen3 decoder whose last layer computes only the last token."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name in torch's own documentation

if TYPE_CHECKING:
    from training.config import ModelShape


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Scale each row to a root mean square of 1, times the weight."""
        full = x.float()
        scaled = full * torch.rsqrt(full.square().mean(-1, keepdim=True) + self.eps) * self.weight
        return scaled.to(x.dtype)


class Attention(nn.Module):
    """Causal attention with normalised queries and keys, and rotary positions."""

    def __init__(self, shape: "ModelShape") -> None:
        super().__init__()
        width, head = shape.hidden_size, shape.head_dim
        self.heads, self.kv_heads, self.head = shape.heads, shape.kv_heads, head
        self.q_proj = nn.Linear(width, shape.heads * head, bias=False)
        self.k_proj = nn.Linear(width, shape.kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, shape.kv_heads * head, bias=False)
        self.o_proj = nn.Linear(shape.heads * head, width, bias=False)
        self.q_norm, self.k_norm = Norm(head, shape.norm_eps), Norm(head, shape.norm_eps)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], last: Tensor | None) -> Tensor:
        """Attend from every token, or only from the token at `last` in each row.

        Args:
            x: (batch, tokens, width).
            turns: Cosines and sines of the rotary positions, (tokens, head).
            last: (batch,) or None.
        """
        batch, length, _ = x.shape
        k = self.k_norm(self.k_proj(x).view(batch, length, self.kv_heads, self.head)).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head).transpose(1, 2)
        asking = x if last is None else x[torch.arange(batch, device=x.device), last][:, None]
        q = self.q_norm(self.q_proj(asking).view(batch, -1, self.heads, self.head)).transpose(1, 2)
        k = rotated(k, *turns)
        grouped = self.heads != self.kv_heads
        with torch.autocast("cpu", enabled=False):  # see `rotated`
            if last is None:
                q = rotated(q, *turns)
                out = F.scaled_dot_product_attention(q, k, v.float(), is_causal=True, enable_gqa=grouped)
            else:
                q = rotated(q, turns[0][last][:, None, None], turns[1][last][:, None, None])
                seen = torch.arange(length, device=x.device)[None] <= last[:, None]
                out = F.scaled_dot_product_attention(q, k, v.float(), attn_mask=seen[:, None, None], enable_gqa=grouped)
        return self.o_proj(out.transpose(1, 2).reshape(batch, -1, self.heads * self.head))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, shape: "ModelShape") -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.feed_forward, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.feed_forward, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each on the normalised residual stream."""

    def __init__(self, shape: "ModelShape") -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], last: Tensor | None = None) -> Tensor:
        """Return the residual stream of every token, or of the token at `last` in each row, (batch, 1, width)."""
        kept = x if last is None else x[torch.arange(len(x), device=x.device), last][:, None]
        x = kept + self.self_attn(self.input_layernorm(x), turns, last)
        return x + self.mlp(self.post_attention_layernorm(x))


class Student(nn.Module):
    """A Qwen3 model whose parameters are named as in a checkpoint without the `model.` prefix."""

    def __init__(self, shape: "ModelShape") -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden_size, shape.norm_eps)

    def forward(self, ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return each token's input to the last layer, and the pooled vectors (batch, width), both not normalised.

        Args:
            ids: Token ids, padded on the right, (batch, tokens).
            last: Position of each row's last token, (batch,). Attention is causal, so padding needs no mask.
        """
        turns = rotary(ids.shape[1], self.shape.head_dim, self.shape.rope_theta, ids.device)
        x = self.embed_tokens(ids)
        for layer in self.layers[:-1]:
            x = layer(x, turns)
        return x, self.norm(self.layers[-1](x, turns, last)[:, 0])


def rotary(length: int, head: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, (length, head), of rotary positions (Su et al. 2021), which pair both halves of a head."""
    rates = theta ** -(torch.arange(0, head, 2, device=device).float() / head)
    angles = torch.arange(length, device=device).float()[:, None] * torch.cat([rates, rates])
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys, (batch, heads, tokens, head), by their positions.

    The result is float32, because the backward pass of torch's attention is four times as slow in bfloat16 on a CPU.
    """
    left, right = x.float().chunk(2, dim=-1)
    return x * cosines + torch.cat([-right, left], dim=-1) * sines
