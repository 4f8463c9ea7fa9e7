"""Make real texts of chosen lengths from Python's reference manual, which every interpreter contains.

Lengths are counted in words, of which 0.75 make a token, so that no tokenizer is needed.
"""

import math
import random
from pydoc_data.topics import topics

WORDS = " ".join(text for _, text in sorted(topics.items())).split()

PLAIN = [word for word in WORDS if word.isalpha() and word.islower() and len(word) < 10]  # noqa: PLR2004 - a token or two
"""Words for questions that have about as many tokens as words."""

QUESTIONS = ("how does", "what is", "when should I use", "why is", "difference between", "example of", "where is")


def documents(number: int = 128, shortest: int = 4, longest: int = 320) -> list[str]:
    """Return running text of mixed lengths, evenly spread on a logarithmic scale."""
    draw = random.Random(1)
    texts = []
    for place in range(number):
        length = round(math.exp(math.log(shortest) + place / max(1, number - 1) * math.log(longest / shortest)))
        start = draw.randrange(len(WORDS) - length)
        texts.append(" ".join(WORDS[start : start + length]))
    draw.shuffle(texts)
    return texts


def queries(number: int = 256, words: tuple[int, int] = (3, 9)) -> list[str]:
    """Return short questions about plain words of the manual: 5 to 15 tokens with the default number of words."""
    draw = random.Random(2)
    made = []
    for _ in range(number):
        length, start = draw.randint(*words), draw.randrange(len(PLAIN) - max(words))
        made.append(f"{draw.choice(QUESTIONS)} {' '.join(PLAIN[start : start + length])}?")
    return made


def short_with_repeats(number: int = 20_000, repeated: float = 0.3) -> list[str]:
    """Return short texts, some of which are repeated."""
    draw = random.Random(3)
    fresh = queries(round(number * (1 - repeated)), (3, 20))
    texts = fresh + draw.choices(fresh, k=number - len(fresh))
    draw.shuffle(texts)
    return texts
