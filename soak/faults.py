"""An encoder that fails now and then, as callers must not notice, and for guilty texts, as they must."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.tokenization import TextTokenizer
from soak.texts import EXHAUSTS, KILLS, RAISES, SPOILS, Vectors

ALONE = 2
"""Tokens of such a word as a text: its own, and the end's."""


class Faulty:
    """Stands before a real encoder."""

    def __init__(self, real: Any, ids: dict[str, int], transient: float, exhausted: float) -> None:
        """Take the ids of guilty words, and the share of batches that fail or run out of memory as a whole."""
        self._real = real
        self._ids = ids
        self._transient, self._exhausted = transient, exhausted
        self._draw = random.Random()

    def __getattr__(self, name: str) -> Any:
        """Be the real one in all else."""
        return getattr(self._real, name)

    def encode(self, rows: Sequence[Any], *given: Any) -> Vectors:
        """Fail, or give what the real one gives."""
        guilty = {word: [bool((row == token).any()) for row in rows] for word, token in self._ids.items()}
        if any(guilty[KILLS]):
            raise SystemExit
        if any(guilty[RAISES]):
            message = "a text of this batch cannot be computed"
            raise RuntimeError(message)
        if len(rows) > 1 and (any(guilty[EXHAUSTS]) or self._draw.random() < self._exhausted):
            message = "[malloc] Unable to allocate"
            raise RuntimeError(message)
        if len(rows) > 1 and self._draw.random() < self._transient:
            message = "a fault that its halves do not have"
            raise RuntimeError(message)
        vectors: Vectors = np.array(self._real.encode(rows, *given))
        vectors[guilty[SPOILS]] = np.nan
        return vectors


def install(engine: EmbeddingEngine, tokenizer: TextTokenizer, *, transient: float = 0.02, exhausted: float = 0.0) -> None:
    """Put faults into an engine that was not used yet."""
    encoded = {word: tokenizer.encode([f"\n{word} 1"], max_length=9)[0].ids for word in (RAISES, SPOILS, EXHAUSTS, KILLS)}
    ids = {word: int(found[0]) for word, found in encoded.items()}
    if any(tokenizer.encode([word], max_length=9)[0].length != ALONE for word in ids):
        raise ValueError(f"one of {', '.join(ids)} is no token of its own: choose other words")
    worker = engine._model.worker
    opening = worker._open_encoder
    worker._open_encoder = lambda: Faulty(opening(), ids, transient, exhausted)
