"""Texts, their right vectors, and random requests for them."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine

Vectors = NDArray[np.float32]

RAISES, SPOILS, EXHAUSTS, KILLS = "archive", "kernel", "database", "magnet"
"""Words of one token each that make a batch raise, return NaN, run out of memory, or end the worker's thread."""

WORDS = ("the", "tide", "follows", "moon", "over", "grey", "water", "while", "boats", "wait", "near", "quiet", "light")
TEXTS = 160
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"dimensions": 32},
    {"pooling": "mean"},
    {"instruction": "Find the passage", "role": "query"},
)
TOLERANCE = 1e-5
GUILTY, IMPATIENT, UNWAITING = 0.08, 0.05, 0.05
"""Share of requests with a text that has to fail, with a short timeout, and that do not wait for a full queue."""


def make_texts(seed: int = 0) -> list[str]:
    """Return distinct texts: most are short, some have hundreds of tokens."""
    draw = random.Random(seed)
    lengths = [draw.randint(1, 20) if number % 20 else draw.randint(60, 150) for number in range(TEXTS)]
    return [f"{' '.join(draw.choices(WORDS, k=length))} {number}" for number, length in enumerate(lengths)]


def make_table(folder: Path, texts: list[str]) -> list[Vectors]:
    """Compute every text in every variant, with an engine that nothing else uses."""
    table = []
    with EmbeddingEngine(str(folder), cache_bytes=0) as engine:
        for variant in VARIANTS:
            options = {name: value for name, value in variant.items() if name != "role"}
            embed = engine.embed_queries if "role" in variant else engine.embed_documents
            table.append(embed(texts, **options))
    return table


@dataclass
class Request:
    """A request and its right outcome.

    Attributes:
        texts: In the order of the call.
        wanted: Vectors, shape (texts, d); rows of guilty texts have no meaning.
        query: Whether the texts are queries.
        options: Options of the call.
        guilty: Positions of the texts that have to fail.
    """

    texts: list[str]
    wanted: Vectors
    query: bool
    options: dict[str, Any]
    guilty: set[int] = field(default_factory=set)


def draw_request(draw: random.Random, texts: list[str], table: list[Vectors], guilty: tuple[str, ...]) -> Request:
    """Draw a request: some texts, maybe repeated, sometimes with a guilty one, a short timeout, or without waiting."""
    variant = draw.randrange(len(VARIANTS))
    rows = [draw.randrange(TEXTS) for _ in range(draw.choice((1, 1, 2, 4, 8, 16)))]
    options = {name: value for name, value in VARIANTS[variant].items() if name != "role"}
    request = Request([texts[row] for row in rows], table[variant][rows], "role" in VARIANTS[variant], options)
    if draw.random() < GUILTY:
        place = draw.randrange(len(rows))
        # The line break keeps the word a token of its own, whatever comes before it.
        request.texts[place] = f"\n{draw.choice(guilty)} {draw.randrange(1000)}"
        request.guilty.add(place)
    if draw.random() < IMPATIENT:
        options["timeout"] = draw.uniform(0.001, 0.2)
    if draw.random() < UNWAITING:
        options["wait"] = False
    return request
