"""Texts that come as token ids: spelled as strings, so that windows, repeats and the cache treat them like any text."""

import hashlib
from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np

from mlx_qwen_embeddings.tokenization import Ids, TextTokenizer, Tokens


def spell(rows: Sequence[Sequence[int]], vocabulary_size: int) -> list[str]:
    """Write each row of ids as a string.

    Raises:
        TypeError: When an id is no whole number; the message names its place.
        ValueError: When it is none of the model's, likewise.
    """
    for row, ids in enumerate(rows):
        for place, number in enumerate(ids):
            if not isinstance(number, Integral) or isinstance(number, bool):
                message = f"texts[{row}][{place}] must be a token id, a whole number, got {number!r}"
                raise TypeError(message)
            if not 0 <= number < vocabulary_size:
                message = (
                    f"texts[{row}][{place}] is the token id {number}, and this model's lie between 0 and "
                    f"{vocabulary_size - 1}: send text, or ids of this model's own tokenizer"
                )
                raise ValueError(message)
    return [" ".join(map(str, ids)) for ids in rows]


def keys_for_ids(keys: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """Give cache keys that no text has, whatever its words."""
    return lambda text: hashlib.blake2b(keys(text), digest_size=20, person=b"token ids").digest()


class TokenIds:
    """Reads what `spell` wrote; stands where a tokenizer does."""

    def __init__(self, tokenizer: TextTokenizer, prompt: Ids | None) -> None:
        """Prepare.

        Args:
            tokenizer: The model's own, for the special tokens that it puts around a text.
            prompt: Ids in front of every text, its opening special tokens included; None when there is no prompt.
        """
        self._head = tokenizer.prefix if prompt is None else tuple(prompt.tolist())
        self._prefix, self._suffix = tokenizer.prefix, tokenizer.suffix

    def encode(self, texts: Sequence[str], *, max_length: int) -> list[Tokens]:
        """Give the ids of each text, special tokens added where they are missing, cut so that the last ones survive."""
        return [self._cut(self._whole(text), max_length) for text in texts]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, special tokens included, before any cut."""
        return [len(self._whole(text)) for text in texts]

    def _whole(self, text: str) -> list[int]:
        ids = [int(number) for number in text.split()]
        if self._prefix and tuple(ids[: len(self._prefix)]) == self._prefix:
            ids = ids[len(self._prefix) :]
        if self._suffix and tuple(ids[-len(self._suffix) :]) == self._suffix:
            ids = ids[: -len(self._suffix)]
        return [*self._head, *ids, *self._suffix]

    def _cut(self, ids: list[int], max_length: int) -> Tokens:
        length = len(ids)
        kept = ids if length <= max_length else [*ids[: max_length - len(self._suffix)], *self._suffix]
        return Tokens(np.array(kept, dtype=np.int32), length)
