"""What the steps share: the model's shape, the recipe, and the file names in a work folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

EOS: Final = "<|endoftext|>"
SPECIAL_TOKENS: Final = (EOS, "<|im_start|>", "<|im_end|>")

MAX_CHARACTERS: Final = 500
MAX_TOKENS: Final = 256
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
    "Given a scientific claim, retrieve documents that support or refute the claim",
    "Given a multi-hop question, retrieve documents that can help answer the question",
    "Given a title of a scientific paper, retrieve the titles of other relevant papers",
    "Given a query, retrieve relevant entity descriptions from DBPedia",
    "Given a financial question, retrieve user replies that best answer the question",
    "Identify the main category of the news article",
    "Given a news summary, retrieve other semantically similar summaries",
    "Represent this sentence for searching relevant passages",
    "Retrieve tutorials that show how to do this",
    "Find the product that the customer describes",
    "Given an error message, find its cause and remedy",
    "Cluster the texts by their subject",
    "Find notes about the same thing",
    "Answer the question from the documents",
)


@dataclass(frozen=True)
class ModelShape:
    """The values of a Qwen3 configuration that define its parameters and its computation.

    The defaults are nano's. `hidden_size` must be the width of the teacher's vectors: the student's own
    vector is compared with them directly.
    """

    hidden_size: int = 384
    layers: int = 4
    heads: int = 6
    kv_heads: int = 6
    head_dim: int = 64
    feed_forward: int = 1024
    vocab_size: int = 29527
    max_positions: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class WorkFolder:
    """The files that one step leaves for the next."""

    root: Path

    @property
    def tokenizer(self) -> Path:
        """The student's tokenizer, in the `tokenizers` format."""
        return self.root / "tokenizer.json"

    @property
    def shards(self) -> Path:
        """The teacher's answers for the texts; see `shards.py`."""
        return self.root / "shards"

    @property
    def alone(self) -> Path:
        """The teacher's state of each vocabulary entry by itself, float16, (vocabulary, width)."""
        return self.root / "alone.npy"

    @property
    def rotation(self) -> Path:
        """The axes of the student's vectors, float32, (width, width), most important first."""
        return self.root / "rotation.npy"

    @property
    def checkpoint(self) -> Path:
        """Everything that training resumes from."""
        return self.root / "checkpoint.pt"

    @property
    def log(self) -> Path:
        """Losses and held-in scores, one JSON object per line."""
        return self.root / "log.jsonl"

    @property
    def picture(self) -> Path:
        """The log as a picture."""
        return self.root / "log.png"

    @property
    def student(self) -> Path:
        """The student's float32 weights, named as in a Qwen3 checkpoint without the `model.` prefix."""
        return self.root / "student.safetensors"


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters that can be changed between runs.

    Attributes:
        tokens: Approximate tokens per batch.
        adam_rate: Peak learning rate of AdamW.
        muon_rate: Peak learning rate of Muon; 0 gives the matrices to AdamW too.
        states: Initial weight of the loss on token states. It falls to a tenth.
        instructed: Share of batches with an instruction before every text.
        compile: Whether torch compiles the student. This takes a minute, and is then 1.2 times as fast.
    """

    tokens: int = 12_000
    adam_rate: float = 1e-3
    muon_rate: float = 3e-3
    states: float = 1.0
    instructed: float = 0.2
    compile: bool = True
