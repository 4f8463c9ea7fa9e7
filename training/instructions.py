"""Choose instructions to put before texts: the student learns that no instruction changes a text's meaning."""

import random
from collections.abc import Sequence

from tokenizers import Tokenizer

from training.config import INSTRUCTIONS

KNOWN = 0.5
LONGEST = 24


class Instructions:
    """The template of an instruction, and texts to fill it.

    Args:
        tokenizer: The student's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        def tokens(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False).ids

        self._before, self._behind = tokens("Instruct: "), tokens("\nQuery:")
        self._known = [tokens(instruction) for instruction in INSTRUCTIONS]

    def chosen(self, dice: random.Random, text: Sequence[int]) -> list[int]:
        """Return the tokens of a known instruction or, equally often, of one made from the beginning of a text.

        Args:
            dice: Source of randomness.
            text: The text's tokens.
        """
        inside = dice.choice(self._known) if dice.random() < KNOWN else text[:LONGEST]
        return [*self._before, *inside, *self._behind]
