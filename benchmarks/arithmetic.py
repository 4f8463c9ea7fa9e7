"""Compute what the 0.6B's shape must cost: the operations for a text, and the weights that a query reads."""

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
"""Weights of a layer: for keys and values, and for everything else."""


def flops(lengths: Iterable[int]) -> int:
    """Return the floating-point operations in the matrix products for texts of the given lengths.

    Padding does not count. The last layer needs keys and values of every token, and everything else only for the last one.
    A causal layer computes half of the scores.
    """
    total = 0
    for length in lengths:
        linear = (LAYERS * KEYS_VALUES + (LAYERS - 1) * REST) * length + REST
        scores = QUERY * length * ((LAYERS - 1) * (length + 1) + 2)
        total += 2 * linear + 2 * scores
    return total


def weight_bytes() -> int:
    """Return the bytes of the float32 weights that every batch reads: all but the embeddings."""
    return 4 * LAYERS * (KEYS_VALUES + REST)
