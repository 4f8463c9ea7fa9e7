"""Real English texts of every length, cut from the standard library's documentation."""

import ast
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo"}


def sentences() -> Iterator[str]:
    """Return the sentences of the standard library's docstrings, in the order of its files."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(library).parts):
            yield from _documented(path)


def _documented(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, ValueError):  # a few files are broken on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield from re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n", ast.get_docstring(node) or "")


def texts(tokenizer: Tokenizer, lengths: Sequence[int]) -> list[str]:
    """Return distinct texts that begin with a sentence and have the given lengths in tokens, without special ones."""
    stream = (sentence for sentence in sentences() if len(sentence.split()) > 3)
    found: dict[str, None] = {}
    for length in lengths:
        text = _text(tokenizer, length, stream)
        while text in found:
            text = _text(tokenizer, length, stream)
        found[text] = None
    return list(found)


def _text(tokenizer: Tokenizer, length: int, stream: Iterator[str]) -> str:
    text, ends = next(stream), []
    while len(ends := [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]) < length:
        text = f"{text} {next(stream)}"
    return text[: ends[length - 1]]
