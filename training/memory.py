"""Cross-batch memory (Wang et al. 2020): the latest vectors, so that a text is compared with more texts than its batch.

A batch holds texts of nearly one length, the memory those of a dozen batches. So a question is held to passages, too, and
each text has more neighbours to tell apart.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 4096


@dataclass
class Memory:
    """What was said of the latest texts.

    Attributes:
        vectors: The student's, as it was then, (texts, width).
        targets: The teacher's unit vectors, rotated, of the same shape.
    """

    vectors: Tensor
    targets: Tensor

    def keep(self, vectors: Tensor, targets: Tensor) -> None:
        """Add a batch's; the oldest ones go."""
        self.vectors = torch.cat([self.vectors, vectors.detach()])[-KEPT:].clone()  # a part of a whole is saved whole
        self.targets = torch.cat([self.targets, targets])[-KEPT:].clone()


def nothing(width: int, device: str) -> Memory:
    """Return a memory of no text."""
    return Memory(torch.zeros(0, width, device=device), torch.zeros(0, width, device=device))
