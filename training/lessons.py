"""What the student learns from: token ids in its own vocabulary, and the teacher's answers on rotated axes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training import shards
from training.instructions import Instructions
from training.tokenizer import UNKNOWN, eos_id, own_ids

HELD_IN = 1_500
LEAST = 30


@dataclass(frozen=True)
class Batch:
    """Some texts as the student reads them, with the teacher's answers.

    Attributes:
        ids: Padded on the right, (texts, tokens).
        last: Position of each text's EOS, (texts,).
        content: True for the text's own tokens, not instruction, EOS or padding, (texts, tokens).
        states: The teacher's states of those tokens, one after another, not rotated, (content, width).
        vectors: The teacher's unit vectors, not rotated, (texts, width).
    """

    ids: NDArray[np.int64]
    last: NDArray[np.int64]
    content: NDArray[np.bool_]
    states: NDArray[np.float32]
    vectors: NDArray[np.float32]


class Lessons:
    """All shards of a work folder.

    Attributes:
        shards: The shards, in order.
        sizes: Tokens of each text, (texts,).
        rotation: Rotation of the teacher's space, (width, width); the identity until `axes.learnt` is set here.
        eos: Id of the student's EOS.

    Args:
        root: Folder of the shards.
        student: The student's tokenizer.
        teacher: The teacher's tokenizer.

    Raises:
        ValueError: If there is no shard, or there are only a few texts.
    """

    def __init__(self, root: Path, student: Tokenizer, teacher: Tokenizer) -> None:
        folders = shards.stored(root)
        if not folders:
            raise ValueError(f"{root} holds no shard: run the teacher step first")
        self.shards = [shards.load(folder) for folder in folders]
        own = own_ids(student, teacher)
        self._shared = [theirs for theirs, ours in enumerate(own) if ours is not None]
        unknown = student.token_to_id(UNKNOWN)
        self._own = np.array([unknown if ours is None else ours for ours in own], np.int64)
        self._firsts = np.cumsum([0, *(len(shard.sizes) for shard in self.shards)])
        self._starts = [np.cumsum(shard.sizes, dtype=np.int64) - shard.sizes for shard in self.shards]
        self.rotation = np.eye(self.shards[0].vectors.shape[1], dtype=np.float32)
        self.sizes = np.concatenate([shard.sizes for shard in self.shards]).astype(np.int64)
        self.eos = eos_id(student)
        self._instructions = Instructions(student)
        if len(self.sizes) < LEAST:
            raise ValueError(f"{root} holds {len(self.sizes)} texts: give the teacher step a corpus of {LEAST} or more")

    @cached_property
    def learnt(self) -> NDArray[np.int64]:
        """Rows to learn from: all that have a token, except the last ones."""
        return np.nonzero(self.sizes[: -self._kept_back])[0]

    @cached_property
    def held_in(self) -> NDArray[np.int64]:
        """Rows of the last group that are never learnt from, shortest first."""
        first = len(self.sizes) - self._kept_back
        rows = first + np.nonzero(self.sizes[first:])[0]
        return rows[np.argsort(self.sizes[rows])]

    @property
    def _kept_back(self) -> int:
        return min(HELD_IN, len(self.sizes) // 10)

    def batch(self, rows: NDArray[np.int64], prefix: Sequence[int] = ()) -> Batch:
        """Return some texts, each after an instruction's tokens."""
        found = [self._text(row) for row in rows.tolist()]
        sizes = self.sizes[rows]
        last = sizes + len(prefix)
        places = np.arange(last.max() + 1)
        content = (places >= len(prefix)) & (places < last[:, None])
        ids = np.full(content.shape, self.eos)
        ids[:, : len(prefix)] = prefix
        ids[content] = self._own[np.concatenate([ids for ids, _, _ in found])]
        states = np.concatenate([states for _, states, _ in found])
        return Batch(ids, last, content, states, np.stack([vector for _, _, vector in found]))

    def prefix(self, dice: random.Random) -> list[int]:
        """Return the tokens of a known instruction or, equally often, of the beginning of any text."""
        row = int(self.learnt[dice.randrange(len(self.learnt))])
        return self._instructions.chosen(dice, self._own[self._text(row)[0]].tolist())

    def _text(self, row: int) -> tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32]]:
        number = int(np.searchsorted(self._firsts, row, side="right")) - 1
        shard, within = self.shards[number], row - int(self._firsts[number])
        start = int(self._starts[number][within])
        place = slice(start, start + int(self.sizes[row]))
        states = shard.states[place].astype(np.float32)  # their scales do not matter, because only directions are compared
        return shard.ids[place], states, shard.vectors[within].astype(np.float32)

    def usual_states(self, alone: NDArray[np.floating], weight: float = 10.0) -> NDArray[np.float32]:
        """Return the teacher's mean state of each vocabulary entry, as rotated unit vectors, (vocabulary, width).

        Args:
            alone: The teacher's state of each entry by itself.
            weight: How many occurrences that state counts for.
        """
        import torch

        sums = torch.from_numpy(weight * unit(alone.astype(np.float32)))
        for shard in self.shards:
            for start in range(0, len(shard.ids), 100_000):
                part = slice(start, start + 100_000)
                states = unit(shard.states[part].astype(np.float32))
                sums.index_add_(0, torch.from_numpy(shard.ids[part].astype(np.int64)), torch.from_numpy(states))
        return unit(sums.numpy() @ self.rotation)

    def own_entries(self, states: NDArray[np.float32], entries: int) -> NDArray[np.float32]:
        """Return the rows of the teacher's entries by the student's ids, zeros where there is none, (entries, width)."""
        table = np.zeros((entries, states.shape[1]), np.float32)
        table[self._own[self._shared]] = states[self._shared]
        return table


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1. Rows of zeros stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
