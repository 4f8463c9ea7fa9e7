"""Learn the axes of the student's vectors: rotate them so that the first ones carry as much as possible."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.config import SEED
from training.shards import Shard

KEPT = (64, 128, 256)
STEPS = 400
TOGETHER = 2048
PEAK_RATE = 3e-3
STRAIGHT = 0.1
FEWEST = 20


def principal(taught: Sequence[Shard]) -> NDArray[np.float32]:
    """Return the rotation onto the vectors' principal axes, (width, width), most variance first."""
    products = sum(rows.T @ rows for shard in taught for rows in [shard.vectors.astype(np.float32)])
    return np.linalg.svd(products).Vh.T.copy()


def learnt(taught: Sequence[Shard], steps: int = STEPS) -> NDArray[np.float32]:
    """Return a rotation, (width, width), after which truncated vectors rank each other as the whole ones do.

    A rotation keeps every cosine, so the student can be truncated (Matryoshka representation learning, Kusupati et al.
    2022) without a loss for the full vectors. It starts at the principal axes, which keep the most variance. But only a
    small part of the variance distinguishes similar texts. So the rotation then learns to keep, for each text and each
    trained width, the softmax of its similarities to the others (the listwise loss of Cao et al. 2007).

    Args:
        taught: Shards. Each step takes texts from one of them, so that texts of one kind are compared with each other.
        steps: Number of steps.
    """
    import torch
    from torch.nn.functional import normalize

    from training.losses import of_neighbours, similarities

    start = principal(taught)
    comparable = [shard for shard in taught if len(shard.sizes) > FEWEST]
    rotation, one = torch.from_numpy(start).requires_grad_(), torch.eye(len(start))
    optimizer, rng = torch.optim.Adam([rotation]), np.random.default_rng(SEED)
    for step in range(steps if comparable else 0):
        vectors = comparable[rng.integers(len(comparable))].vectors
        rows = np.sort(rng.permutation(len(vectors))[:TOGETHER])
        batch = normalize(torch.from_numpy(vectors[rows].astype(np.float32)), dim=-1)
        loss = STRAIGHT * ((rotation.T @ rotation - one) ** 2).sum()
        for width in KEPT:
            turned = batch @ rotation[:, :width]
            loss = loss + of_neighbours(similarities(turned, turned, width), batch @ batch.T)
        optimizer.param_groups[0]["lr"] = PEAK_RATE * (1 - step / steps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    left, _, right = torch.linalg.svd(rotation.detach().double())
    orthogonal: NDArray[np.float32] = (left @ right).float().numpy()
    return orthogonal
