"""Choose the optimiser for each of the student's parameters."""

import torch

from training.config import Recipe
from training.model import Student


def optimizers(student: Student, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon (Jordan et al. 2024) for the layers' matrices, and AdamW for the embeddings and norms.

    Args:
        student: The model to train.
        recipe: Peak learning rates. A rate of 0 for Muon gives the matrices to AdamW too.
    """
    named = dict(student.named_parameters())
    matrices = [value for name, value in named.items() if name.endswith("proj.weight") and recipe.muon_rate]
    others = [value for value in named.values() if not any(value is matrix for matrix in matrices)]
    adam = torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    found: list[torch.optim.Optimizer] = [adam]
    if matrices:
        found.append(torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found
