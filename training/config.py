"""What the steps share: the shape of the model, the recipe's numbers and the names of the files in a work folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

EOS: Final = "<|endoftext|>"
SPECIAL_TOKENS: Final = (EOS, "<|im_start|>", "<|im_end|>")
VOCAB_SIZE: Final = 16384

MAX_CHARACTERS: Final = 500
MAX_TOKENS: Final = 192
SEED: Final = 0

INSTRUCTIONS: Final = (
    "Given a web search query, retrieve relevant passages that answer the query",
    "Retrieve semantically similar text",
    "Given a question, retrieve Wikipedia passages that answer the question",
    "Given a claim, retrieve documents that support or refute the claim",
    "Retrieve relevant documents for the query",
    "Find code documentation that answers the question",
    "Classify the topic of the text",
    "Identify duplicate questions",
)


@dataclass(frozen=True)
class ModelShape:
    """Everything about a Qwen3 model that fixes its parameters' shapes, plus what it computes with them.

    The defaults are nano's. `hidden_size` must be the width of the teacher's vectors: the student's own
    vector is compared with them directly.
    """

    hidden_size: int = 384
    layers: int = 4
    heads: int = 6
    kv_heads: int = 6
    head_dim: int = 64
    feed_forward: int = 1024
    vocab_size: int = VOCAB_SIZE
    max_positions: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class WorkFolder:
    """The files that one step leaves for the next."""

    root: Path

    @property
    def tokenizer(self) -> Path:
        """Byte-level BPE in the `tokenizers` format."""
        return self.root / "tokenizer.json"

    @property
    def teacher(self) -> Path:
        """The teacher's unit vector of each text, float16, (texts, width), in the corpus's order."""
        return self.root / "teacher.npy"

    @property
    def tokens(self) -> Path:
        """The teacher's unit vector of each vocabulary entry's own text, float16, (vocabulary, width)."""
        return self.root / "tokens.npy"

    @property
    def rotation(self) -> Path:
        """The teacher's principal axes, float32, (width, width), most variance first."""
        return self.root / "rotation.npy"

    @property
    def student(self) -> Path:
        """The student's float32 weights, named as in a Qwen3 checkpoint without the `model.` prefix."""
        return self.root / "student.safetensors"
