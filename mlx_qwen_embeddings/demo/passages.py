"""What the demo searches: short texts on unrelated subjects, and this project's own notes cut into passages."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources

from mlx_qwen_embeddings.registry import NANO_FOLDER

_SHORTEST = 80
"""Characters below which a paragraph of the notes says too little on its own."""

_NOT_PROSE = re.compile(r"^---\n.*?^---\n|^```.*?^```|<!--.*?-->|^\|.*?$", re.DOTALL | re.MULTILINE)
"""Front matter, code, comments and the rows of tables."""

_BREAK = re.compile(r"\n\s*\n|\n(?=\s*[-*] |#)")
"""Ends a paragraph: an empty line, or a line that begins a list item or a heading."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A short text.

    Attributes:
        id: Unique among the passages.
        source: Where it is from, for the reader.
        text: What is embedded.
    """

    id: str
    source: str
    text: str


def load_passages() -> list[Passage]:
    """Give every passage: those in ``passages.jsonl``, then the README and the embedded model's card."""
    lines = (resources.files(__package__) / "passages.jsonl").read_text("utf-8").splitlines()
    # The README is no file of the wheel, but its text is part of the package's metadata, as it was when it was installed.
    readme = metadata.metadata("mlx-qwen-embeddings")["Description"] or ""
    card = (NANO_FOLDER / "README.md").read_text("utf-8")
    return [*(Passage(**json.loads(line)) for line in lines), *cut(readme, "README"), *cut(card, "model card of nano")]


def cut(markdown: str, name: str) -> Iterator[Passage]:
    """Cut Markdown into its paragraphs and list items, without code, tables and marks.

    Args:
        markdown: The text.
        name: What to call it in ``Passage.source``.

    Yields:
        Passages of at least 80 characters; the source names the heading that they stand under.
    """
    heading, number = "", 0
    for block in _BREAK.split(_NOT_PROSE.sub("", markdown)):
        text = _plain(block)
        if block.lstrip().startswith("#"):
            heading = text
        elif len(text) >= _SHORTEST:
            number += 1
            yield Passage(f"{name} {number}", f"{name}, {heading}", text)


def _plain(block: str) -> str:
    without_links = re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", block)
    return " ".join(re.sub(r"^\s*(?:#+|[-*])\s|\*\*|`", "", without_links).split())
