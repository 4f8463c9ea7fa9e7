"""Texts, the vectors that each has to have, and random requests for them."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine

Vectors = NDArray[np.float32]

RAISES, SPOILS, EXHAUSTS, KILLS = "archive", "kernel", "database", "magnet"
"""Words, each a token of its own, that make a batch raise, give NaN, run out of memory, or end the worker's thread."""

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
"""Share of the requests with a text that has to fail, with a short time limit, and that do not wait in a full queue."""


def make_texts(seed: int = 0) -> list[str]:
    """Give distinct texts: most short, some of hundreds of tokens."""
    draw = random.Random(seed)
    lengths = [draw.randint(1, 20) if number % 20 else draw.randint(60, 150) for number in range(TEXTS)]
    return [f"{' '.join(draw.choices(WORDS, k=length))} {number}" for number, length in enumerate(lengths)]


def make_table(folder: Path, texts: list[str]) -> list[Vectors]:
    """Compute every text under every variant, one call after the other, by an engine that nothing else uses."""
    table = []
    with EmbeddingEngine(str(folder), cache_bytes=0) as engine:
        for variant in VARIANTS:
            options = {name: value for name, value in variant.items() if name != "role"}
            embed = engine.embed_queries if "role" in variant else engine.embed_documents
            table.append(embed(texts, **options))
    return table


@dataclass
class Request:
    """What is asked, and what has to come of it.

    Attributes:
        texts: In the order of the call.
        wanted: Vectors (texts, d); those of guilty texts mean nothing.
        query: Whether they are queries.
        options: Of the call.
        guilty: Positions of the texts that have to fail.
    """

    texts: list[str]
    wanted: Vectors
    query: bool
    options: dict[str, Any]
    guilty: set[int] = field(default_factory=set)


def draw_request(draw: random.Random, texts: list[str], table: list[Vectors], guilty: tuple[str, ...]) -> Request:
    """Draw one: some texts, repeats among them, sometimes a guilty one, an impatient one, or one that does not wait."""
    variant = draw.randrange(len(VARIANTS))
    rows = [draw.randrange(TEXTS) for _ in range(draw.choice((1, 1, 2, 4, 8, 16)))]
    options = {name: value for name, value in VARIANTS[variant].items() if name != "role"}
    request = Request([texts[row] for row in rows], table[variant][rows], "role" in VARIANTS[variant], options)
    if draw.random() < GUILTY:
        place = draw.randrange(len(rows))
        # Behind the end of a line it is cut off from whatever stands before.
        request.texts[place] = f"\n{draw.choice(guilty)} {draw.randrange(1000)}"
        request.guilty.add(place)
    if draw.random() < IMPATIENT:
        options["timeout"] = draw.uniform(0.001, 0.2)
    if draw.random() < UNWAITING:
        options["wait"] = False
    return request
