"""The texts and checkpoints whose vectors are stored in ``vectors.json``."""

from tests.support.checkpoints import Shape

NANO_TEXTS = [
    "The boats wait for the tide.",
    "Why do birds migrate?",
    "",
    "  Two  spaces,\tone tab\nand a line. ",
    "naïve café, 日本語, مرحبا, 🍝",
    "def area(radius):\n    return math.pi * radius**2",
    "rain " * 300,
]

SEED = 11

SHAPES = {
    "heads wider than hidden, two query heads per key head": Shape(),
    "one query head per key head": Shape(num_key_value_heads=4, head_dim=8),
    "four query heads per key head": Shape(num_attention_heads=8, num_key_value_heads=2, head_dim=12),
    "with biases": Shape(attention_bias=True),
}

ROWS = [
    [(7 * place * place + 31 * length) % Shape().vocab_size for place in range(length)] for length in (1, 2, 9, 33, 120)
]
"""Token ids, for checkpoints that have no tokenizer."""
