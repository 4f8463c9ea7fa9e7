"""How far the student is from the teacher."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Similarities inside a batch count at full width and for the truncated vector.
SIMILARITY_WEIGHTS = ((384, 3.0), (256, 0.7), (128, 0.7), (64, 0.7))


def of_vectors(vectors: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the mean cosine to the target, plus the squared errors of the similarities in the batch.

    Args:
        vectors: The student's vectors, (batch, width).
        targets: The teacher's unit vectors, rotated, of the same shape.
    """
    wanted = targets @ targets.T
    loss = (1 - (normalize(vectors, dim=-1) * targets).sum(1)).mean()
    for dimensions, weight in SIMILARITY_WEIGHTS:
        short = normalize(vectors[:, :dimensions], dim=-1)
        loss = loss + weight * ((short @ short.T - wanted) ** 2).mean()
    return loss


def of_states(states: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the mean cosine between the tokens' states and the teacher's, both (tokens, width)."""
    return (1 - (normalize(states, dim=-1) * normalize(targets, dim=-1)).sum(1)).mean()


def agreement(vectors: Tensor, targets: Tensor, dimensions: int) -> float:
    """Return the correlation of all pairs' similarities, the student's vectors truncated, with the teacher's."""
    short = normalize(vectors[:, :dimensions], dim=-1)
    above = torch.triu_indices(len(vectors), len(vectors), offset=1)
    pairs = torch.stack([(short @ short.T)[above[0], above[1]], (targets @ targets.T)[above[0], above[1]]])
    return float(torch.corrcoef(pairs)[0, 1])
