"""Read the corpus, UTF-8 files with one text per line, plain or gzipped, and choose and order its texts."""

import gzip
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

from training.config import MAX_CHARACTERS, SEED
from training.reading import reading

# A text with two of these counts as program code or its documentation.
TECHNICAL = re.compile(r"[_(){}<>=\\`/|*#@\[\]]|::|\d\.\d")
TECHNICAL_SHARE = 0.3
LONG = 250
PASSAGE_CHARACTERS = 1100
RARE = (3, 60)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8", newline="\n"))
    return path.open(encoding="utf-8", newline="\n")


def lines(path: Path) -> Iterator[str]:
    """Yield the texts of a file without line ends, cut to the recipe's number of characters.

    Raises:
        ValueError: If the file is not text.
    """
    with reading(path, "UTF-8 text, plain or (.gz) gzipped"), _open(path) as file:
        for line in file:
            yield line.rstrip("\n")[:MAX_CHARACTERS]


def chosen(texts: Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """Return the texts to learn from, shuffled: prose, a share of the technical texts, and passages of long texts.

    Args:
        texts: The corpus.
        more: Texts that are all taken.
    """
    dice = random.Random(SEED)
    kept = [text for text in texts if len(TECHNICAL.findall(text)) < 2 or dice.random() < TECHNICAL_SHARE]  # noqa: PLR2004 - two, as said above
    kept += passages([text for text in kept if len(text) >= LONG])
    kept += more
    dice.shuffle(kept)
    return kept


def passages(texts: Sequence[str]) -> list[str]:
    """Join texts that share a rare word into passages of about the recipe's length, as the corpus has only single lines.

    Args:
        texts: Long texts.
    """
    words = [sorted(set(re.findall(r"[a-z]{4,}", text.lower()))) for text in texts]
    counts = Counter(word for found in words for word in found)
    fewest, most = RARE
    keys = [
        min(((counts[word], word) for word in found if fewest <= counts[word] <= most), default=(0, "")) for found in words
    ]
    made, passage = [], ""
    for (_, word), text in sorted(zip(keys, texts, strict=True)):
        if not word:
            continue
        passage = f"{passage} {text}" if passage else text
        if len(passage) >= PASSAGE_CHARACTERS:
            made.append(passage)
            passage = ""
    return made
