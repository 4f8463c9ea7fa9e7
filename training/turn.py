"""Continue from another run's student after the shards, and with them the axes, have changed."""

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from training.student import Progress

if TYPE_CHECKING:
    from training.config import WorkFolder
    from training.student import Training

READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
WRITERS = ("self_attn.o_proj", "mlp.down_proj")


def turned(weights: Mapping[str, Tensor], turn: Tensor) -> dict[str, Tensor]:
    """Return the weights of a student whose states and vectors are the rotated ones of another.

    RMSNorm without weights commutes with a rotation. So each norm's weights, relative to their mean, move into the matrices
    that read it (Ashkboos et al. 2024, SliceGPT). No matrix reads the last norm: its new weights are the best fit.

    Args:
        weights: A student's weights, named as in its state.
        turn: The rotation from old axes to new, (width, width).
    """
    full = {name: weight.double() for name, weight in weights.items()}
    turn = turn.double()
    made = dict(full) | {"embed_tokens.weight": full["embed_tokens.weight"] @ turn}
    made["norm.weight"] = (turn.square() * full["norm.weight"][:, None]).sum(0)
    for name in [name for name in full if name.endswith(tuple(f"{norm}.weight" for norm in READERS))]:
        layer, norm = name.rsplit(".", 2)[0], name.rsplit(".", 2)[1]
        mean = full[name].mean()
        made[name] = torch.full_like(full[name], float(mean))
        for reader in READERS[norm]:
            made[f"{layer}.{reader}.weight"] = (full[f"{layer}.{reader}.weight"] * (full[name] / mean)) @ turn
    for name in [name for name in full if name.endswith(tuple(f"{writer}.weight" for writer in WRITERS))]:
        made[name] = turn.T @ full[name]
    return {name: weight.float() for name, weight in made.items()}


def take_over(training: "Training", earlier: "WorkFolder") -> None:
    """Continue from another run's checkpoint and log, with its student rotated onto these axes and new optimisers.

    Args:
        training: A run that has not started.
        earlier: The work folder of the other run.
    """
    state = torch.load(earlier.checkpoint, map_location=training.device, weights_only=True)
    turn = torch.from_numpy(np.load(earlier.rotation)).to(training.device).T @ training.rotation
    training.student.load_state_dict(turned(state["student"], turn))
    training.progress = Progress(**state["progress"] | {"began": state["progress"]["step"]})
    shutil.copy(earlier.log, training.work.log)
