"""Text to token ids, including the end token and the truncation policy. Uses ``tokenizers``, never ``transformers``."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mlx_qwen_embeddings.errors import InputTooLongError, InvalidTextError, ModelLoadError
from mlx_qwen_embeddings.options import Truncate, check_unicode

Ids = NDArray[np.int32]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model reads it.

    Attributes:
        ids: Token ids, special tokens included, cut to ``max_length``; shape (tokens,).
        length: Number of tokens before the cut.
    """

    ids: Ids
    length: int


class TextTokenizer:
    """A model's tokenizer that always ends (and, for BERT, begins) a text with the model's special tokens."""

    def __init__(self, tokenizer: Tokenizer, *, end_token_id: int | None = None) -> None:
        """Prepare a tokenizer.

        Args:
            tokenizer: It is modified: padding and truncation are turned off.
            end_token_id: The id that must end every text, for models pooled at the last token. It is appended when the
                tokenizer does not append it. None appends nothing.
        """
        # all-MiniLM's tokenizer.json asks for truncation to 128 tokens and for padding, and both would be silent.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if getattr(tokenizer.model, "dropout", None):
            # For training: it splits words at random, so that a text would get a new vector each time.
            tokenizer.model.dropout = None
        self._tokenizer = tokenizer
        self.prefix, self.suffix = _special_ids(tokenizer)
        self._appended: tuple[int, ...] = ()
        if end_token_id is not None and self.suffix[-1:] != (end_token_id,):
            self._appended = (end_token_id,)
            self.suffix += self._appended
        self.repaired = bool(self._appended)

    @cached_property
    def vocabulary_size(self) -> int:
        """Number of ids, added tokens included: one more than the highest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, texts: Sequence[str], *, max_length: int) -> list[Tokens]:
        """Encode texts that ``check_texts`` returned, each cut to ``max_length`` so that the special tokens survive."""
        return [self._cut(ids, max_length) for ids in self._ids(texts)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, special tokens included, before any cut."""
        return [len(ids) for ids in self._ids(texts)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            with panics_as_errors():
                return [[*encoding.ids, *self._appended] for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        except RuntimeError as error:
            if len(texts) > 1:
                return [ids for text in texts for ids in self._ids([text])]
            raise InvalidTextError(
                f"the tokenizer gives up on a text of {len(texts[0])} characters that begins with {texts[0][:20]!r} "
                f"({error}): split it, or shorten its runs of spaces"
            ) from error

    def _cut(self, ids: list[int], max_length: int) -> Tokens:
        length = len(ids)
        if length > max_length:
            keep = max_length - len(self.suffix)
            ids = [*ids[:keep], *self.suffix]
        return Tokens(np.array(ids, dtype=np.int32), length)


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise a ``RuntimeError`` when the tokenizer panics: a Rust panic is not an ``Exception``, so nothing catches it."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from None


def _special_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    probe = "a"
    plain: list[int] = tokenizer.encode(probe, add_special_tokens=False).ids
    full: list[int] = tokenizer.encode(probe, add_special_tokens=True).ids
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start]), tuple(full[start + len(plain) :])
    raise ModelLoadError(
        f"the tokenizer's special tokens cannot be found: {probe!r} gives {plain} without them and {full} with them"
    )


def check_texts(texts: object, *, start: int = 0) -> list[str]:
    """Return ``texts`` as a list of strings that can be encoded.

    Args:
        texts: What the caller passed.
        start: Position of the first text, for messages, when they are part of a longer sequence.

    Raises:
        TypeError: When it is a single string, or an item is not a string; the message names the position.
        InvalidTextError: When a string has a lone surrogate, which has no UTF-8 form.
    """
    checked: list[str] = list(check_iterable(texts))
    for position, text in enumerate(checked, start):
        if not isinstance(text, str):
            raise TypeError(f"texts[{position}] must be a string, got {_describe(text)}")
        if not text.isascii():
            check_unicode(text, f"texts[{position}]")
    return checked


def check_iterable(texts: object) -> Iterable[Any]:
    """Return ``texts`` without reading it.

    Raises:
        TypeError: When it is a single string, whose letters nobody wants to embed, or cannot be iterated.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) == 0:
        raise TypeError(f"texts must be a list of strings, got {_describe(texts)}: for a single text write [text]")
    return texts


def _describe(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"  # noqa: PLR2004 - a short excerpt


def check_length(position: int, length: int, max_length: int, truncate: Truncate) -> bool:
    """Return whether a text of ``length`` tokens is cut; raise an ``InputTooLongError`` when ``truncate`` forbids it."""
    if length > max_length and truncate == "error":
        raise InputTooLongError(
            f"texts[{position}] has {length} tokens, more than max_length={max_length}: split it, raise max_length, or "
            'pass truncate="end"'
        )
    return length > max_length


def check_ids(rows: Sequence[Sequence[int]], vocabulary_size: int) -> list[bytes]:
    """Return each row of token ids as the bytes of an int32 array, which can be compared and hashed like text.

    Raises:
        TypeError: When an id is not a whole number; the message names its place.
        ValueError: When an id is not in the model's vocabulary, likewise.
    """
    for row, ids in enumerate(rows):
        for place, number in enumerate(ids):
            if not isinstance(number, Integral) or isinstance(number, bool):
                raise TypeError(f"texts[{row}][{place}] must be a token id, a whole number, got {number!r}")
            if not 0 <= number < vocabulary_size:
                raise ValueError(
                    f"texts[{row}][{place}] is the token id {number}, and this model's lie between 0 and "
                    f"{vocabulary_size - 1}: send text, or ids of this model's own tokenizer"
                )
    return [np.array(ids, dtype=np.int32).tobytes() for ids in rows]


class TokenIds:
    """Takes the place of a tokenizer for texts that come as token ids."""

    def __init__(self, tokenizer: TextTokenizer, prompt: Ids | None) -> None:
        """Prepare.

        Args:
            tokenizer: The model's own, for the special tokens that it puts around a text.
            prompt: Ids in front of every text, its opening special tokens included; None when there is no prompt.
        """
        self._prefix, self._suffix = tokenizer.prefix, tokenizer.suffix
        self._head: Sequence[int] | Ids = self._prefix if prompt is None else prompt

    def encode(self, rows: Sequence[bytes], *, max_length: int) -> list[Tokens]:
        """Return the ids of each row of ``check_ids``, with missing special tokens added, cut so that the last survive."""
        return [self._cut(self._complete(np.frombuffer(row, dtype=np.int32)), max_length) for row in rows]

    def _complete(self, ids: Ids) -> Ids:
        if tuple(ids[: len(self._prefix)]) == self._prefix:
            ids = ids[len(self._prefix) :]
        end = len(ids) - len(self._suffix)
        if end >= 0 and tuple(ids[end:]) == self._suffix:
            ids = ids[:end]
        return np.concatenate((self._head, ids, self._suffix), dtype=np.int32, casting="unsafe")

    def _cut(self, ids: Ids, max_length: int) -> Tokens:
        if len(ids) <= max_length:
            return Tokens(ids, len(ids))
        kept = np.concatenate((ids[: max_length - len(self._suffix)], ids[len(ids) - len(self._suffix) :]))
        return Tokens(kept, len(ids))
