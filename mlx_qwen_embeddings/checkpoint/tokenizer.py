"""Bound what a crafted ``tokenizer.json`` can cost: its size, what its rules make of a text, and the time of its patterns.

The ``tokenizers`` package reads any file that is well-formed, and twenty rules that double a letter make a million of it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

MAX_BYTES = 100_000_000
"""The largest published tokenizers have 35 MB."""

MAX_GROWTH = 64
"""How many times longer the rules of a normalizer may make a text. Those of published ones at most double it."""

MAX_WORD = 1000
"""Most letters of a word that WordPiece may cut up, in time that grows with their square; all published ones have 100."""

_NAMED = re.compile(r'"normalizer"\s*:\s*(?=[{\[])')


def check_size(size: int) -> None:
    """Look at a file's size, in bytes, before it is read into memory.

    Raises:
        ValueError: When it is too large.
    """
    if size > MAX_BYTES:
        message = f"it has {size} bytes, more than the {MAX_BYTES} that any tokenizer needs"
        raise ValueError(message)


def check_content(raw: bytes) -> None:
    """Look at a file's content before it is used: to do so runs its normalizer over the added tokens.

    Raises:
        ValueError: When its normalizer may take for ever.
    """
    steps = list(_normalizers(raw.decode()))
    growth = 1.0
    for step in _objects(steps):
        growth *= _growth(step)
        if growth > MAX_GROWTH:
            message = f"its normalizer can make a text more than {MAX_GROWTH} times longer"
            raise ValueError(message)
    _check_patterns(steps)


def check_steps(tokenizer: Tokenizer) -> None:
    """Look at a tokenizer before it is used.

    Raises:
        ValueError: When there are texts that it may take for ever over.
    """
    if tokenizer.pre_tokenizer is not None:
        _check_patterns(json.loads(tokenizer.pre_tokenizer.__getstate__()))
    longest = getattr(tokenizer.model, "max_input_chars_per_word", 0)
    if longest > MAX_WORD:
        message = f"it cuts up words of {longest} letters, more than {MAX_WORD}"
        raise ValueError(message)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Give all JSON objects in a value, itself included."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(inner)


def _normalizers(text: str) -> Iterator[Any]:
    """Give what is named a normalizer, wherever: to parse 11 MB for the one that counts takes half as long as all else."""
    if r"\u00" in text:  # its name may be spelled so
        content = json.loads(text)
        yield content.get("normalizer") if isinstance(content, dict) else None
        return
    for found in _NAMED.finditer(text):
        yield json.JSONDecoder().raw_decode(text, found.end())[0]


def _growth(step: dict[str, Any]) -> float:
    """Give how many times longer a normalizer's step can make a text of at least one letter; its type may be left out."""
    if "prepend" in step:
        return 1.0 + len(step["prepend"])
    if "pattern" not in step or "content" not in step:
        return 1.0
    pattern, content = step["pattern"], step["content"]
    replaced = pattern.get("String", "") if isinstance(pattern, dict) else ""
    # A regular expression may match one letter, or none.
    return max(1.0, len(content) / len(replaced)) if replaced else 1.0 + len(content)


def _check_patterns(steps: Any) -> None:
    for step in _objects(steps):
        pattern = step.get("Regex")
        if isinstance(pattern, str) and repeats_a_choice(pattern):
            message = (
                f"its pattern {pattern[:80]!r} repeats what itself repeats or chooses, and may take for ever over a text"
            )
            raise ValueError(message)


def repeats_a_choice(pattern: str) -> bool:
    """Say whether an unbounded repetition holds another one, or alternatives: what takes exponential time to fail."""
    choices = [False]  # of each open group, the whole pattern first
    in_class = 0
    place = 0
    while place < len(pattern):
        letter = pattern[place]
        if letter == "\\":
            place += 1  # whatever follows stands for itself, or for a class
        elif letter == "[":
            in_class += 1
        elif letter == "]" and in_class:
            in_class -= 1
        elif in_class:
            pass
        elif letter == "(":
            choices.append(False)
        elif letter == ")" and len(choices) > 1:
            inner = choices.pop()
            if inner and _unbounded(pattern, place + 1):
                return True
            choices[-1] |= inner
        elif letter == "|" or _unbounded(pattern, place):
            choices[-1] = True
        place += 1
    return False


def _unbounded(pattern: str, place: int) -> bool:
    following = pattern[place : place + 12]
    return following[:1] in ("*", "+") or (following[:1] == "{" and following.partition("}")[0].endswith(","))
