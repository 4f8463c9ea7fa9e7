"""Reading the corpus: UTF-8, one text a line, plain or gzipped."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

from training.config import MAX_CHARACTERS


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8", newline="\n"))
    return path.open(encoding="utf-8", newline="\n")


def lines(path: Path) -> Iterator[str]:
    """Yield the corpus's lines with their line ends: the tokenizer learns what follows a full stop, too."""
    with _open(path) as file:
        yield from file


def texts(path: Path) -> list[str]:
    """Return every text without its line end, cut to the recipe's number of characters."""
    return [line.rstrip("\n")[:MAX_CHARACTERS] for line in lines(path)]
