"""What the student learns from: token ids, and the teacher's vectors turned onto their principal axes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.config import INSTRUCTIONS, MAX_TOKENS
from training.tokenizer import eos_id

AXES_SAMPLE = 60000


@dataclass(frozen=True)
class Lessons:
    """What a student learns from: token ids that end in EOS, and the teacher's vector of each text."""

    ids: list[list[int]]
    vectors: NDArray[np.float16]
    rotation: NDArray[np.float32]
    prefixes: list[list[int]]
    eos: int


def gather(texts: Sequence[str], vectors: NDArray[np.float16], tokenizer: Tokenizer, rng: np.random.Generator) -> Lessons:
    """Return the lessons for a corpus.

    Args:
        texts: The corpus.
        vectors: The teacher's vector of each text, in the same order.
        tokenizer: The student's; left with truncation switched on.
        rng: Draws the sample for the rotation.

    Raises:
        ValueError: If there is not one vector a text.
    """
    if len(texts) != len(vectors):
        raise ValueError(f"{len(texts)} texts but {len(vectors)} teacher vectors: run the teacher step on this corpus")
    tokenizer.enable_truncation(MAX_TOKENS)
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    rotation = principal_axes(vectors, rng)
    return Lessons(ids, vectors, rotation, instruction_prefixes(tokenizer), eos_id(tokenizer))


def principal_axes(vectors: NDArray[np.float16], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the rotation onto the vectors' principal axes, (width, width), most variance first.

    A rotation keeps every cosine. It puts most variance first, so a student of the rotated vectors can be
    truncated (Matryoshka representation learning, Kusupati et al. 2022).

    Args:
        vectors: One vector a row.
        rng: Draws the sample that the axes are computed from.
    """
    sample = rng.choice(len(vectors), min(AXES_SAMPLE, len(vectors)), replace=False)
    rows = vectors[sample].astype(np.float32)
    return np.linalg.svd(rows.T @ rows).Vh.T.copy()


def instruction_prefixes(tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids that stand before an instructed query's own, one list an instruction."""
    prompts = [f"Instruct: {instruction}\nQuery:" for instruction in INSTRUCTIONS]
    return [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
