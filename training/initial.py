"""Initialise the student: it starts by averaging the teacher's usual state of each token in its last layer."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import SEED, ModelShape
from training.model import Student

# Length of the embeddings, relative to the states that the layers add.
EMBEDDING_LENGTH = 4.0


def build(shape: ModelShape, entries: NDArray[np.float32]) -> Student:
    """Return a student whose vector of a text is the mean of its tokens' usual states.

    Args:
        shape: The model's shape. Hidden size and vocabulary size are those of `entries`.
        entries: The rotated unit vector of each vocabulary entry, zero for special tokens.
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
        # Values pass unchanged, and queries of nearly zero length attend to all tokens equally.
        torch.nn.init.eye_(last.v_proj.weight)
        torch.nn.init.eye_(last.o_proj.weight)
        last.q_norm.weight.fill_(0.1)
    return student
