"""Switch off shortcuts of the encoder by name, to measure what each of them gains."""

import math
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any


def _replace(module: str, name: str, value: object) -> None:
    setattr(import_module(f"mlx_qwen_embeddings.{module}"), name, value)


def _lanes() -> None:
    _replace("compute.mlx.lanes", "MOST_LANES", 1)


def _pieces() -> None:
    _replace("compute.encoder", "pieces", lambda lengths, *_: [range(len(lengths))])


def _attention() -> None:
    _replace("models.attention", "by_hand", lambda _: False)


def _silu() -> None:
    import mlx.core as mx

    _replace("models.qwen3", "silu", lambda x: x * mx.sigmoid(x))


def _gelu() -> None:
    import mlx.core as mx

    from mlx_qwen_embeddings.models import bert

    bert.ACTIVATIONS["gelu"] = lambda x: x * (1.0 + mx.erf(x * math.sqrt(0.5))) * 0.5


def _exp() -> None:
    import mlx.core as mx

    def by_mlx(scores: mx.array, last: Any = None) -> mx.array:
        if last is not None:
            rows, keys = scores.shape[-2:]
            scores += mx.pad(mx.array(last), [(0, 0), (keys - rows, 0)])
        scores -= scores.max(axis=-1, keepdims=True)
        scores[:] = mx.exp(scores)
        return scores.sum(axis=-1, keepdims=True)

    _replace("models.activations", "exp_in_place", mx.exp)
    _replace("models.attention", "softmax_in_place", by_mlx)


def _order() -> None:
    _replace("models.layers", "FEW_TOKENS", 0)


def _step() -> None:
    _replace("compute.encoder", "STEP", 1)


def _prompt() -> None:
    _replace("compute.encoder", "SHORTEST_SHARED", 10**9)


def _settled() -> None:
    for model in ("bert", "qwen3"):
        _replace(f"models.{model}", "settled", lambda x: x)


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
"""What each switch leaves out: several streams; pieces of similar length; attention by hand in causal blocks; the fast
SwiGLU; BERT's fast GELU; exponentials by numpy; weights first where tokens are few; padding a lone text to a multiple of
16; keeping prompts; evaluating layer by layer instead of a whole model; a last layer that computes only keys and values of
all tokens, and everything else for one token per text."""


def switch_off(names: Iterable[str]) -> None:
    """Switch the named shortcuts off for every engine that this process opens from now on."""
    if names := list(names):
        from mlx_qwen_embeddings.compute.mlx.backend import choose_backend

        choose_backend()  # before MLX is imported
    for name in names:
        SWITCHES[name]()
