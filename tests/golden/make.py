"""Make ``vectors.json``: unit vectors by sentence-transformers and transformers, for tests that run without either.

    python -m tests.golden.make      (in the environment of `make parity`)

nano is first unpacked to float32, because the references do not read MLX's packed format. The random
checkpoints are those of ``tests.support.checkpoints``, whose seeds name the same weights on every machine.
"""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import Qwen3Model

from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from tests.golden.cases import NANO_TEXTS, ROWS, SEED, SHAPES
from tests.support.checkpoints import random_weights, write_checkpoint, write_unpacked
from tests.support.references import pooled

TARGET = Path(__file__).with_name("vectors.json")
DIGITS = 8


def rounded(vectors: NDArray[Any]) -> list[list[float]]:
    return [[round(float(value), DIGITS) for value in vector] for vector in vectors]


def nano(folder: Path) -> dict[str, Any]:
    model = SentenceTransformer(str(write_unpacked(folder / "nano")), device="cpu")
    return {
        name: rounded(model.encode(NANO_TEXTS, prompt=prompt, normalize_embeddings=True))
        for name, prompt in (("document", ""), ("query", QWEN3_PROMPT))
    }


def random_checkpoints(folder: Path) -> dict[str, Any]:
    made = {}
    for place, (name, shape) in enumerate(SHAPES.items()):
        path = write_checkpoint(folder / str(place), random_weights(shape, SEED), shape.config())
        model = Qwen3Model.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.inference_mode():
            hidden = [model(torch.tensor([row])).last_hidden_state[0].double().numpy() for row in ROWS]
        made[name] = rounded(np.stack([pooled(states, "last") for states in hidden]))
    return made


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        golden = {
            "made by": "python -m tests.golden.make",
            "with": {name: version(name) for name in ("sentence-transformers", "transformers", "torch", "tokenizers")},
            "on": "CPU, float32, one text at a time (transformers) or in its own padded batches (sentence-transformers)",
            "nano": nano(Path(place)),
            "random": random_checkpoints(Path(place)),
        }
    text = json.dumps(golden, indent=1)
    TARGET.write_text(text.replace(",\n   ", ", ").replace("[\n   ", "[").replace("\n  ]", "]") + "\n")


if __name__ == "__main__":
    main()
