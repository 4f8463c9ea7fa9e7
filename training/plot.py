"""Draw a run: losses and held-in scores over the number of tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

LOSSES = {"loss_vectors": "vectors, similarities, neighbours", "loss_states": "token states, weight falling to a tenth"}
SCORES = {
    "cosine": "cosine to the teacher's vector",
    "agreement_384": "similarities, correlation with the teacher's",
    "agreement_128": "the same at 128 dimensions",
}


def curve(lines: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw the losses above and the held-in scores below, and save the picture.

    Args:
        lines: The run's log.
        picture: PNG file to write.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6.4), sharex=True, layout="constrained")
    for axes, names, what in ((above, LOSSES, "loss of a batch"), (below, SCORES, "on texts kept back")):
        for name, label in names.items():
            points = [(line["tokens"] / 1e6, line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="o" if name in SCORES else None, markersize=3)
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(loc="upper left", bbox_to_anchor=(0, 1.2), ncols=len(names), fontsize=8, frameon=False)
    above.set_yscale("log")
    below.set_xlabel("million tokens")
    figure.savefig(picture, dpi=110)
    plt.close(figure)
