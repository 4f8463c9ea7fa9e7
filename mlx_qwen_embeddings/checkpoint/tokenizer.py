"""Read a ``tokenizer.json``, with bounds on its size and on what its rules can make of a text.

The ``tokenizers`` package reads any file that is well formed, and twenty rules that double a letter turn it into a million.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.tokenization import panics_as_errors

MAX_BYTES = 100_000_000
"""Largest file that is read; the largest published tokenizers have 35 MB."""

MAX_GROWTH = 64
"""How many times longer a normalizer may make a text; those of published tokenizers at most double it."""

MAX_WORD = 1000
"""Longest word that WordPiece may split, in letters: the time grows with the square. Published tokenizers stop at 100."""

_NORMALIZER = re.compile(r'"normalizer"\s*:\s*(?=[{\[])')


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        ModelLoadError: When it is missing or broken, or goes beyond a bound of this module.
    """
    if not path.is_file():
        raise ModelLoadError(f"{path.parent} has no tokenizer.json: copy it there from the model's own repository")
    try:
        return _read(path)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelLoadError(f"{path} cannot be read as a tokenizer ({error}): download it again") from error


def _read(path: Path) -> Tokenizer:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"it has {size} bytes, more than the {MAX_BYTES} that any tokenizer needs")
    raw = path.read_bytes()
    _check_growth(raw.decode())  # first, because reading the file applies its normalizer to the added tokens
    with panics_as_errors():
        tokenizer: Tokenizer = Tokenizer.from_buffer(raw)
    longest = getattr(tokenizer.model, "max_input_chars_per_word", 0)
    if longest > MAX_WORD:
        raise ValueError(f"it splits words of {longest} letters, more than {MAX_WORD}")
    return tokenizer


def _check_growth(text: str) -> None:
    growth = 1.0
    for step in _objects(list(_normalizers(text))):
        growth *= _growth(step)
        if growth > MAX_GROWTH:
            raise ValueError(f"its normalizer can make a text more than {MAX_GROWTH} times longer")


def _normalizers(text: str) -> Iterator[Any]:
    """Yield every value that is named "normalizer": parsing all 11 MB of a file takes half as long as loading it."""
    if r"\u00" in text:  # the name may be written with escapes
        content = json.loads(text)
        yield content.get("normalizer") if isinstance(content, dict) else None
        return
    for found in _NORMALIZER.finditer(text):
        yield json.JSONDecoder().raw_decode(text, found.end())[0]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in a value, itself included."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(inner)


def _growth(step: dict[str, Any]) -> float:
    """Return how many times longer a step of a normalizer can make a text; its type may be left out."""
    if "prepend" in step:
        return 1.0 + len(step["prepend"])
    if "pattern" not in step or "content" not in step:
        return 1.0
    pattern, content = step["pattern"], step["content"]
    replaced = pattern.get("String", "") if isinstance(pattern, dict) else ""
    # A regular expression may match one letter, or none.
    return max(1.0, len(content) / len(replaced)) if replaced else 1.0 + len(content)
