"""Read a ``tokenizer.json``, with bounds on its size and on what its rules can make of a text.

The ``tokenizers`` package reads any file that is well formed, and twenty rules that double a letter turn it into a million.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.tokenization import panics_as_errors

MAX_BYTES = 100_000_000
"""Largest file that is read. The largest published tokenizers have 35 MB."""

MAX_GROWTH = 64
"""How many times longer a normalizer may make a text. Those of published tokenizers at most double the length."""

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
    # First, because reading the file applies its normalizer to the added tokens.
    if math.prod(map(_growth, _normalizers(raw.decode()))) > MAX_GROWTH:
        raise ValueError(f"its normalizer can make a text more than {MAX_GROWTH} times longer")
    with panics_as_errors():
        tokenizer: Tokenizer = Tokenizer.from_buffer(raw)
    longest = getattr(tokenizer.model, "max_input_chars_per_word", 0)
    if longest > MAX_WORD:
        raise ValueError(f"it splits words of {longest} letters, more than {MAX_WORD}")
    return tokenizer


def _normalizers(text: str) -> Iterator[Any]:
    """Yield every value that is named "normalizer". Parsing the whole file would take half as long as loading it."""
    if r"\u00" in text:  # the name may be written with escapes
        content = json.loads(text)
        yield content.get("normalizer") if isinstance(content, dict) else None
        return
    for found in _NORMALIZER.finditer(text):
        yield json.JSONDecoder().raw_decode(text, found.end())[0]


def _growth(step: Any) -> float:
    """Return how many times longer a normalizer, with all that it contains, can make a text; its type may be left out."""
    if isinstance(step, list):
        return math.prod(map(_growth, step), start=1.0)
    if not isinstance(step, dict):
        return 1.0
    growth = math.prod(map(_growth, step.values()), start=1.0)
    if "prepend" in step:
        growth *= 1 + len(step["prepend"])
    elif "pattern" in step and "content" in step:
        pattern, content = step["pattern"], step["content"]
        replaced = pattern.get("String", "") if isinstance(pattern, dict) else ""
        # A regular expression may match one letter, or none.
        growth *= max(1.0, len(content) / len(replaced)) if replaced else 1 + len(content)
    return growth
