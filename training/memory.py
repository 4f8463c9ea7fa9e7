"""Cross-batch memory (Wang et al. 2020): recent vectors, so that a text is compared with more than its batch.

A batch holds texts of nearly equal length, the memory those of a dozen batches. So a question is also compared with
passages, and each text has more neighbours to be distinguished from.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 4096


@dataclass
class Memory:
    """The vectors of the latest texts.

    Attributes:
        vectors: The student's vectors at the time, (texts, width).
        targets: The teacher's unit vectors, rotated, of the same shape.
    """

    vectors: Tensor
    targets: Tensor

    def keep(self, vectors: Tensor, targets: Tensor) -> None:
        """Add the vectors of a batch, and drop the oldest."""
        # Cloned, because saving a view saves the whole tensor.
        self.vectors = torch.cat([self.vectors, vectors.detach()])[-KEPT:].clone()
        self.targets = torch.cat([self.targets, targets])[-KEPT:].clone()


def nothing(width: int, device: str) -> Memory:
    """Return an empty memory."""
    return Memory(torch.zeros(0, width, device=device), torch.zeros(0, width, device=device))
