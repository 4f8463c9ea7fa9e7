"""Read medical texts from an ontology and a spelling dictionary, because the corpus has few."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

from training.config import SEED
from training.reading import reading

DEFINITIONS_TOGETHER = 5
WORDS_TOGETHER = (1, 6)
ROUNDS = 2
_ESCAPED = {"n": " ", "t": " ", "W": " "}
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def definitions(path: Path) -> Iterator[str]:
    """Yield `name: definition` of each term in an OBO file, its synonyms as one text, and joined definitions.

    Raises:
        ValueError: If the file holds no term.
    """
    with reading(path, "an ontology in the OBO format"):
        stanzas = path.read_text(encoding="utf-8").split("\n[Term]\n")[1:]
    if not stanzas:
        raise ValueError(f"{path} is not an ontology in the OBO format: it holds no [Term]")
    together: list[str] = []
    for stanza in stanzas:
        fields = [line.partition(": ")[::2] for line in stanza.splitlines()]
        name = next((value for key, value in fields if key == "name"), "")
        synonyms = [quoted for key, value in fields if key == "synonym" for quoted in _quoted(value)]
        meaning = [quoted for key, value in fields if key == "def" for quoted in _quoted(value)]
        if synonyms:
            yield ", ".join([name, *synonyms])
        if meaning and name:
            yield f"{name}: {meaning[0]}"
            together.append(meaning[0])
    for start in range(0, len(together), DEFINITIONS_TOGETHER):
        yield " ".join(together[start : start + DEFINITIONS_TOGETHER])


def _quoted(value: str) -> list[str]:
    return [
        re.sub(r"\\(.)", lambda escaped: _ESCAPED.get(escaped[1], escaped[1]), text) for text in _QUOTED.findall(value)[:1]
    ]


def phrases(path: Path) -> Iterator[str]:
    """Yield phrases of one to six random words of a hunspell dictionary, each word in two of them.

    The phrases mean nothing, but the teacher has states for each of their pieces.

    Raises:
        ValueError: If the file holds no word.
    """
    with reading(path, "a hunspell dictionary in UTF-8"):
        words = [line.partition("/")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    if not words:
        raise ValueError(f"{path} is not a hunspell dictionary: no word follows its first line")
    dice = random.Random(SEED)
    for _ in range(ROUNDS):
        shuffled = dice.sample(words, len(words))
        while shuffled:
            count = dice.randint(*WORDS_TOGETHER)
            yield " ".join(shuffled[:count])
            del shuffled[:count]
