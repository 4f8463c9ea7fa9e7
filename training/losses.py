"""Losses: how far the student is from the teacher."""

import torch
from torch import Tensor
from torch.nn.functional import kl_div, normalize

from training.memory import Memory

# Similarities and neighbours count for the full and for the truncated vectors.
SIMILARITY_WEIGHTS = ((384, 3.0), (256, 0.7), (128, 1.5), (64, 0.7))
NEIGHBOUR_WEIGHTS = ((384, 0.2), (128, 0.6))
TEMPERATURE = 0.05


def of_vectors(vectors: Tensor, targets: Tensor, memory: Memory) -> Tensor:
    """Return one minus the mean cosine to the targets, plus the losses of the similarities.

    The latter are squared errors within the batch, and the divergence of each text's neighbours there and in the memory.

    Args:
        vectors: The student's vectors, (batch, width).
        targets: The teacher's unit vectors, rotated, of the same shape.
        memory: Vectors and targets of earlier texts.
    """
    known, batch = torch.cat([vectors, memory.vectors]), len(vectors)
    wanted = targets @ torch.cat([targets, memory.targets]).T
    loss = (1 - (normalize(vectors, dim=-1) * targets).sum(1)).mean()
    for dimensions, weight in SIMILARITY_WEIGHTS:
        loss = loss + weight * ((similarities(vectors, vectors, dimensions) - wanted[:, :batch]) ** 2).mean()
    for dimensions, weight in NEIGHBOUR_WEIGHTS:
        loss = loss + weight * of_neighbours(similarities(vectors, known, dimensions), wanted)
    return loss


def similarities(vectors: Tensor, others: Tensor, dimensions: int) -> Tensor:
    """Return the cosines of truncated vectors with others, (vectors, others)."""
    return normalize(vectors[:, :dimensions], dim=-1) @ normalize(others[:, :dimensions], dim=-1).T


def of_neighbours(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss of each text's neighbourhood, to which the nearest pairs contribute most.

    This is the mean Kullback-Leibler divergence between the softmax distributions of each text's similarities to the other
    texts (the listwise loss of Cao et al. 2007).

    Args:
        found: The student's similarities, (batch, others), in which the batch's own texts come first.
        wanted: The teacher's similarities.
    """
    others = ~torch.eye(*wanted.shape, dtype=torch.bool, device=wanted.device)
    student, teacher = ((side[others].view(len(side), -1) / TEMPERATURE).log_softmax(1) for side in (found, wanted))
    return kl_div(student, teacher, reduction="batchmean", log_target=True)


def of_states(states: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the mean cosine between the tokens' states and the teacher's, both (tokens, width)."""
    return (1 - (normalize(states, dim=-1) * normalize(targets, dim=-1)).sum(1)).mean()


def agreement(vectors: Tensor, targets: Tensor, dimensions: int) -> float:
    """Return the correlation of all pairs' similarities between the truncated student and the teacher."""
    above = torch.triu_indices(len(vectors), len(vectors), offset=1)
    sides = similarities(vectors, vectors, dimensions), targets @ targets.T
    pairs = torch.stack([side[above[0], above[1]] for side in sides])
    return float(torch.corrcoef(pairs)[0, 1])
