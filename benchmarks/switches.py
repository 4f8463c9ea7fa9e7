"""Each shortcut of the encoder, switched off by name, so that its own share can be seen."""

import math
from collections.abc import Callable, Iterable
from typing import Any


def _lanes() -> None:
    from mlx_qwen_embeddings.compute.mlx import lanes

    lanes.MOST_LANES = 1


def _pieces() -> None:
    from mlx_qwen_embeddings.compute import encoder

    encoder.pieces = lambda lengths, *_: [range(len(lengths))]


def _attention() -> None:
    from mlx_qwen_embeddings.models import attention

    attention.by_hand = lambda _: False


def _silu() -> None:
    import mlx.core as mx

    from mlx_qwen_embeddings.models import qwen3

    qwen3.silu = lambda x: x * mx.sigmoid(x)


def _gelu() -> None:
    import mlx.core as mx

    from mlx_qwen_embeddings.models import bert

    bert.ACTIVATIONS["gelu"] = lambda x: x * (1.0 + mx.erf(x * math.sqrt(0.5))) * 0.5


def _exp() -> None:
    import mlx.core as mx

    from mlx_qwen_embeddings.models import activations, attention

    def by_mlx(scores: mx.array, last: Any = None) -> mx.array:
        if last is not None:
            rows, keys = scores.shape[-2:]
            scores += mx.pad(mx.array(last), ((0, 0), (keys - rows, 0)))
        scores -= scores.max(axis=-1, keepdims=True)
        scores[:] = mx.exp(scores)
        return scores.sum(axis=-1, keepdims=True)

    activations.exp_in_place = mx.exp
    attention.softmax_in_place = by_mlx


def _order() -> None:
    from mlx_qwen_embeddings.models import linear

    linear.FEW_TOKENS = 0


def _step() -> None:
    from mlx_qwen_embeddings.compute import encoder

    encoder.STEP = 1


def _prompt() -> None:
    from mlx_qwen_embeddings.compute import encoder

    encoder.SHORTEST_SHARED = 10**9


def _settled() -> None:
    from mlx_qwen_embeddings.models import bert, qwen3

    qwen3.settled = bert.settled = lambda x: x


def _last_token() -> None:
    from mlx_qwen_embeddings.models import qwen3

    qwen3.Layer.last = lambda self, x, lengths, prefix=None: qwen3.last_rows(self(x, prefix), lengths)  # type: ignore[method-assign]


SWITCHES: dict[str, Callable[[], None]] = {
    "lanes": _lanes,
    "pieces": _pieces,
    "attention": _attention,
    "silu": _silu,
    "gelu": _gelu,
    "exp": _exp,
    "order": _order,
    "step": _step,
    "prompt": _prompt,
    "settled": _settled,
    "last_token": _last_token,
}
"""What each name leaves out: several streams; pieces of like length; attention by hand in causal blocks; the cheap SwiGLU;
BERT's cheap GELU; exponentials by numpy; weights first where tokens are few; a lone text's padding to a multiple of 16;
prompts computed once; a layer at a time instead of a whole model; a last layer that computes keys and values of all tokens,
and everything else for one token a text."""


def switch_off(names: Iterable[str]) -> None:
    """Leave the named shortcuts out of every engine that this process opens from now on."""
    if names := list(names):
        from mlx_qwen_embeddings.compute.mlx.backend import choose_backend

        choose_backend()  # before MLX is imported
    for name in names:
        SWITCHES[name]()
