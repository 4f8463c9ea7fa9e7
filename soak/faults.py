"""An encoder that fails now and then, which callers must not notice, and for guilty texts, which they must."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.tokenization import TextTokenizer
from soak.texts import EXHAUSTS, KILLS, RAISES, SPOILS, Vectors

ALONE = 2
"""Tokens of a text of one guilty word: the word and the end token."""


class Faulty:
    """Wraps a real encoder."""

    def __init__(self, real: Any, ids: dict[str, int], transient: float, exhausted: float) -> None:
        """Prepare.

        Args:
            real: The real encoder.
            ids: Token ids of the guilty words.
            transient: Share of batches that fail, but whose halves do not.
            exhausted: Share of batches that run out of memory, but whose halves do not.
        """
        self._real = real
        self._ids = ids
        self._transient, self._exhausted = transient, exhausted
        self._draw = random.Random()

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on to the real encoder."""
        return getattr(self._real, name)

    def encode(self, rows: Sequence[Any], *given: Any) -> Vectors:
        """Fail, or return the real encoder's vectors."""
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
            message = "a fault that the halves of the batch do not have"
            raise RuntimeError(message)
        vectors: Vectors = np.array(self._real.encode(rows, *given))
        vectors[guilty[SPOILS]] = np.nan
        return vectors


def install(engine: EmbeddingEngine, tokenizer: TextTokenizer, *, transient: float = 0.02, exhausted: float = 0.0) -> None:
    """Inject faults into an engine that was not used yet."""
    encoded = {word: tokenizer.encode([f"\n{word} 1"], max_length=9)[0].ids for word in (RAISES, SPOILS, EXHAUSTS, KILLS)}
    ids = {word: int(found[0]) for word, found in encoded.items()}
    if any(tokenizer.encode([word], max_length=9)[0].length != ALONE for word in ids):
        raise ValueError(f"one of {', '.join(ids)} is not a single token: choose other words")
    worker = engine._model.worker
    opening = worker._open_encoder
    worker._open_encoder = lambda: Faulty(opening(), ids, transient, exhausted)
