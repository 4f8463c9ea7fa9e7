"""What the 0.6B's shape costs by its own arithmetic: the multiplications of a text, and the weights a query has to read."""

from collections.abc import Iterable

from benchmarks.checkpoint import CONFIG

HIDDEN: int
INNER: int
LAYERS: int
QUERY: int
KEY: int
HIDDEN, INNER, LAYERS = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_hidden_layers"]
QUERY, KEY = CONFIG["num_attention_heads"] * CONFIG["head_dim"], CONFIG["num_key_value_heads"] * CONFIG["head_dim"]

KEYS_VALUES = 2 * HIDDEN * KEY
REST = 2 * HIDDEN * QUERY + 3 * HIDDEN * INNER
"""Weights of a layer: of its keys and values, and of all else."""


def flops(lengths: Iterable[int]) -> int:
    """Count the floating-point operations of the matrix products that texts of so many tokens need.

    Padding is not counted. The last layer needs keys and values of every token, and all else for the last one only; a
    causal layer multiplies half of the scores.
    """
    total = 0
    for length in lengths:
        linear = (LAYERS * KEYS_VALUES + (LAYERS - 1) * REST) * length + REST
        scores = QUERY * length * ((LAYERS - 1) * (length + 1) + 2)
        total += 2 * linear + 2 * scores
    return total


def weight_bytes() -> int:
    """Give the bytes of the weights in float32 that every batch reads: all but the embeddings."""
    return 4 * LAYERS * (KEYS_VALUES + REST)
