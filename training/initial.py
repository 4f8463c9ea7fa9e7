"""Where the student starts: what the teacher usually says of each token, averaged by the last layer."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import SEED, ModelShape
from training.model import Student

# Of the embeddings, beside states that the layers add.
EMBEDDING_LENGTH = 4.0


def build(shape: ModelShape, entries: NDArray[np.float32]) -> Student:
    """Return a student that says of a text the mean of what is usual for its tokens.

    Args:
        shape: The model's shape; hidden size and vocabulary are those of `entries`.
        entries: The unit vector of each entry of its vocabulary, rotated, zero for special tokens.
    """
    torch.manual_seed(SEED)
    student = Student(shape)
    with torch.no_grad():
        for name, weight in student.named_parameters():
            if name.endswith("proj.weight"):
                branch_end = name.endswith(("o_proj.weight", "down_proj.weight"))
                weight.normal_(std=0.35 * 0.02 if branch_end else 0.02)
        student.embed_tokens.weight.copy_(torch.from_numpy(entries) * EMBEDDING_LENGTH)
        last = student.layers[-1].self_attn
        # Values pass as they are, and queries of length nearly zero look everywhere alike.
        torch.nn.init.eye_(last.v_proj.weight)
        torch.nn.init.eye_(last.o_proj.weight)
        last.q_norm.weight.fill_(0.1)
    return student
