"""The engines under test: with and without a cache file, with small queues, and with models that take turns in memory."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlx_qwen_embeddings import EmbeddingEngine, get_engine
from mlx_qwen_embeddings.checkpoint.tokenizer import read_tokenizer
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tokenization import TextTokenizer
from soak.faults import install
from soak.texts import RAISES, SPOILS, Request, Vectors, draw_request, make_table, make_texts

choose_backend()  # MLX binds its BLAS when it is first imported, as the next line does

from tests.support.checkpoints import WITH_TOKENIZER, random_weights, write_checkpoint  # noqa: E402 - see the line above

QUEUE_TOKENS = 4000
"""So few that the queue is full most of the time."""


@dataclass(frozen=True)
class Target:
    """An engine and the vectors it has to return.

    Attributes:
        name: For complaints.
        engine: Returns the engine, the way a program would get it.
        table: Vectors of every variant.
        share: How often it is used, relative to the others.
    """

    name: str
    engine: Callable[[], EmbeddingEngine]
    table: list[Vectors]
    share: int


class Scene:
    """Two models with engines of their own, three shared copies of which two fit into memory, and the right vectors."""

    def __init__(self, folder: Path) -> None:
        """Write the models, compute the tables, open the engines."""
        self.cache = folder / "vectors.sqlite"
        self.texts = make_texts()
        self.tokenizer = TextTokenizer(read_tokenizer(NANO_FOLDER / "tokenizer.json"))
        self.folders = {"nano": NANO_FOLDER, "tiny": tiny_model(folder / "tiny")}
        self.tables = {name: make_table(path, self.texts) for name, path in self.folders.items()}
        self.own = {
            "nano, file": EmbeddingEngine("nano", cache_path=self.cache, cache_bytes=2**18, queue_tokens=QUEUE_TOKENS),
            "nano": EmbeddingEngine("nano", cache_bytes=0, queue_tokens=QUEUE_TOKENS),
            "tiny": EmbeddingEngine(str(self.folders["tiny"]), cache_bytes=0, queue_tokens=QUEUE_TOKENS),
        }
        self.shared = [
            Path(shutil.copytree(self.folders[name], folder / f"copy-{number}"))
            for number, name in enumerate(("nano", "tiny", "tiny"))
        ]
        self.targets = [
            Target(name, lambda engine=engine: engine, self.tables[name.split(",")[0]], 3)  # type: ignore[misc]
            for name, engine in self.own.items()
        ]
        self.targets += [
            Target(path.name, lambda path=path: shared_engine(path), self.tables[name], 1)  # type: ignore[misc]
            for path, name in zip(self.shared, ("nano", "tiny", "tiny"), strict=True)
        ]
        for engine in self.engines:
            install(engine, self.tokenizer)

    @property
    def engines(self) -> list[EmbeddingEngine]:
        """All engines."""
        return [*self.own.values(), *map(shared_engine, self.shared)]

    def draw(self, draw: random.Random) -> tuple[Target, Request]:
        """Draw an engine and a request."""
        (target,) = draw.choices(self.targets, weights=[target.share for target in self.targets])
        return target, draw_request(draw, self.texts, target.table, (RAISES, SPOILS))

    def close(self) -> None:
        """Close all engines."""
        for engine in self.engines:
            engine.close()


def shared_engine(folder: Path) -> EmbeddingEngine:
    """Return the shared engine of a folder; two of the three may have their model in memory."""
    return get_engine(str(folder), cache_bytes=0, max_loaded_models=2, queue_tokens=QUEUE_TOKENS)


def tiny_model(folder: Path) -> Path:
    """Write a model of two layers with random weights and nano's tokenizer."""
    write_checkpoint(folder, random_weights(WITH_TOKENIZER), WITH_TOKENIZER.config())
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "", "document": ""}}))
    return folder
