"""What stands before an instructed query: an instruction must not move the meaning, whatever it says."""

import random
from collections.abc import Sequence

from tokenizers import Tokenizer

from training.config import INSTRUCTIONS

KNOWN = 0.5
LONGEST = 24


class Instructions:
    """The frame of an instruction, and what may stand in it.

    Args:
        tokenizer: The student's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        def tokens(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False).ids

        self._before, self._behind = tokens("Instruct: "), tokens("\nQuery:")
        self._known = [tokens(instruction) for instruction in INSTRUCTIONS]

    def chosen(self, dice: random.Random, text: Sequence[int]) -> list[int]:
        """Return the tokens of a known instruction, or as often those of one that begins as a text does.

        Args:
            dice: What to choose with.
            text: The text's tokens.
        """
        inside = dice.choice(self._known) if dice.random() < KNOWN else text[:LONGEST]
        return [*self._before, *inside, *self._behind]
