"""Test whether one product for queries, keys and values, or for gate and up, is faster than separate ones. It is not.

python -m benchmarks.fused      milliseconds per layer of the 0.6B's shape, each way, by number of tokens
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.arithmetic import HIDDEN, INNER, KEY, QUERY

TOKENS = (16, 64, 128, 256, 384, 512)
LAYERS = 8
"""Enough layers that no cache holds their weights."""

ROUNDS = 16


def ways(mx: Any, linear: Callable[[Any, Any], Any], silu: Callable[[Any], Any]) -> dict[str, Callable[[Any], list[Any]]]:
    """Make the weights of some layers, separate and joined, and return functions that multiply with them."""

    def weights(*rows: int) -> tuple[list[list[Any]], list[Any]]:
        apart = [[0.03 * mx.random.normal((count, HIDDEN)) for count in rows] for _ in range(LAYERS)]
        return apart, [mx.concatenate(layer) for layer in apart]

    (gates, joined_gates), (heads, joined_heads) = weights(INNER, INNER), weights(QUERY, KEY, KEY)
    mx.eval(gates, joined_gates, heads, joined_heads)

    def by_head(x: Any) -> Any:
        return mx.contiguous(x.reshape(len(x), -1, 128).transpose(1, 0, 2))

    def halves(x: Any) -> Any:
        return silu(x[:, :INNER]) * x[:, INNER:]

    def thirds(x: Any) -> list[Any]:
        return [by_head(part) for part in mx.split(x, [QUERY, QUERY + KEY], axis=1)]

    return {
        "gate, up": lambda x: [silu(linear(gate, x)) * linear(up, x) for gate, up in gates],
        "gate and up": lambda x: [halves(linear(weight, x)) for weight in joined_gates],
        "q, k, v": lambda x: [by_head(linear(weight, x)) for layer in heads for weight in layer],
        "qkv": lambda x: [part for weight in joined_heads for part in thirds(linear(weight, x))],
    }


def main() -> None:
    """Run the program."""
    from mlx_qwen_embeddings.compute.mlx.backend import choose_backend, computing, release_thread
    from mlx_qwen_embeddings.compute.mlx.blas import cores, set_threads

    backend = choose_backend("cpu")
    import mlx.core as mx

    from mlx_qwen_embeddings.models.activations import silu
    from mlx_qwen_embeddings.models.layers import FEW_TOKENS

    set_threads(backend.blas, cores())

    def linear(weight: Any, x: Any) -> Any:
        return (weight @ x.T).T if len(x) <= FEW_TOKENS else x @ weight.T

    with computing(backend):
        compare(mx, ways(mx, linear, silu))
    release_thread()


def compare(mx: Any, tried: Mapping[str, Callable[[Any], Any]]) -> None:
    """Time each way in turn and print the medians."""
    for tokens in TOKENS:
        x = mx.random.normal((tokens, HIDDEN))
        mx.eval(x)
        taken: dict[str, list[float]] = {name: [] for name in tried}
        for _ in range(ROUNDS):
            for name, way in tried.items():
                start = time.perf_counter()
                mx.eval(way(x))
                taken[name].append((time.perf_counter() - start) / LAYERS * 1000)
        print(f"{tokens:4d} tokens: " + ", ".join(f"{name} {statistics.median(ms):.2f} ms" for name, ms in taken.items()))


if __name__ == "__main__":
    main()
