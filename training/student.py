"""Step 3: a Qwen3-shaped student learns the teacher's rotated vectors and the similarities between them."""

import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.config import SEED
from training.lessons import Lessons
from training.schedule import endless_batches, learning_rate

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3Model

logger = logging.getLogger(__name__)

INSTRUCTED_SHARE = 0.12
# Similarities inside a batch count at full width and for the truncated vector.
SIMILARITY_WEIGHTS = ((384, 3.0), (256, 0.7), (128, 0.7), (64, 0.7))
LOG_EVERY = 500


def embed(model: "Qwen3Model", sequences: Sequence[list[int]], eos: int) -> "torch.Tensor":
    """Return the unit state of each sequence's last token, (sequences, width).

    Padding is on the right and attention is causal, so no mask is needed.
    """
    import torch
    from torch.nn.functional import normalize

    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = torch.full((len(sequences), int(lengths.max())), eos)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = torch.tensor(sequence)
    with torch.autocast("cpu", torch.bfloat16):
        states = model(padded, use_cache=False).last_hidden_state
    return normalize(states[torch.arange(len(lengths)), lengths - 1].float(), dim=-1)


def loss_of(vectors: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Return one minus the mean cosine to the target, plus the squared errors of the similarities in the batch.

    Args:
        vectors: The student's unit vectors, (batch, width).
        targets: The teacher's unit vectors, rotated, of the same shape.
    """
    from torch.nn.functional import normalize

    wanted = targets @ targets.T
    loss = (1 - (vectors * targets).sum(1)).mean()
    for dimensions, weight in SIMILARITY_WEIGHTS:
        short = normalize(vectors[:, :dimensions], dim=-1)
        loss = loss + weight * ((short @ short.T - wanted) ** 2).mean()
    return loss


def train(model: "Qwen3Model", lessons: Lessons, rng: np.random.Generator, clock: Callable[[int], float]) -> None:
    """Train the student in place until the clock says that the whole budget is spent.

    Args:
        model: What `initial.build` returned.
        lessons: Ids and targets.
        rng: Shuffles the corpus.
        clock: Step to share of the budget, from 0 to 1; drives the learning rate and ends the run.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    dice = random.Random(SEED)
    sizes = np.array([len(ids) for ids in lessons.ids])
    for step, rows in enumerate(endless_batches(sizes, rng, dice)):
        done = clock(step)
        if done >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done)
        loss = _loss_of_rows(model, lessons, rows, dice)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % LOG_EVERY == 0:
            logger.info("step %d, %.0f%% of the budget, loss %.4f", step, 100 * done, loss.item())


def _loss_of_rows(model: "Qwen3Model", lessons: Lessons, rows: NDArray[np.int64], dice: random.Random) -> "torch.Tensor":
    """Some batches carry an instruction before every text, with the same targets: it must not move the meaning."""
    import torch
    from torch.nn.functional import normalize

    rotated = torch.tensor(lessons.vectors[rows]).float() @ torch.tensor(lessons.rotation)
    prefix = dice.choice(lessons.prefixes) if dice.random() < INSTRUCTED_SHARE else []
    vectors = embed(model, [prefix + lessons.ids[row] for row in rows], lessons.eos)
    return loss_of(vectors, normalize(rotated, dim=-1))
