"""Which published model a folder holds, what is published about it, and how near to that it must come."""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import file_digest
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.registry import ModelSpec, list_models

PUBLISHED = Path(__file__).parent / "published"
_OWNERS = ("qwen", "mlx-community")
_FORM = r"(-([2-8]bit|bf16|fp16|mxfp[48]|nvfp4|gguf))?(-dwq)?([-.:](bf16|f16|f32|q4_0|q4_1|q6_k|q8_0))?"
"""What may follow a model's name; anything else may be a fine-tune, which has values of its own."""


@dataclass(frozen=True, slots=True)
class Known:
    """A published model.

    Attributes:
        name: Its name.
        prompts: Its prompts by role.
        queries: Texts, embedded as queries.
        documents: Texts, embedded as documents.
        scores: Cosine of every query with every document; shape (queries, documents).
        coordinates: Role, text, and the first coordinates of its vector.
        precision: How near an unquantised model in float32 comes to the published values.
        weights: Size in bytes and sha256 of the file with exactly these weights; None when the name tells.
        shape: Entries of config.json that tell its size.
    """

    name: str
    prompts: dict[Role, str]
    queries: list[str]
    documents: list[str]
    scores: list[list[float]]
    coordinates: list[tuple[Role, str, list[float]]]
    precision: float
    weights: tuple[int, str] | None
    shape: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> "Known":
        """Read a file of ``published/``."""
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        weights = said.get("weights")
        return cls(
            name=said["name"],
            prompts=said["prompts"],
            queries=said["scores"]["queries"],
            documents=said["scores"]["documents"],
            scores=said["scores"]["cosine"],
            coordinates=[(row["role"], row["text"], row["first"]) for row in said.get("vectors", [])],
            precision=said["precision"],
            weights=(weights["bytes"], weights["sha256"]) if weights else None,
            shape=said.get("shape", {}),
        )

    def tolerance(self, config: dict[str, Any], dtype: str, kinds: Collection[str] = ()) -> float:
        """Give the largest difference that a score may show.

        Args:
            config: The model's configuration.
            dtype: Compute type.
            kinds: Types of a GGUF's tensors.
        """
        # Eight bits of mantissa through 28 layers: the card's own numbers moved by 0.003 in vLLM's bfloat16.
        allowed = [self.precision, 5e-3 if dtype == "bfloat16" else 0.0]
        if self.weights is None:
            allowed += [_QUANTISED.get(form, _QUANTISED["4"]) for form in _forms(config)]
            allowed += [_QUANTISED["6"]] if "Q6_K" in kinds else []  # unpacked by MLX, so the configuration has none of it
        return max(allowed)


_QUANTISED = {"8": 0.01, "mxfp8": 0.02, "6": 0.015, "5": 0.025, "4": 0.05, "3": 0.12, "2": 0.4}
"""By bits a weight. If quantisation turns a vector by a cosine c, its error is sqrt(2 (1 - c)) long, and counts in a score
with about that over sqrt(d / 2): at c = 0.98 and d = 1024 that is 0.01. Real errors lean one way, so several times as
much is allowed. A wrong pooling, prompt or end token moves scores by 0.1 and more."""


def _forms(config: dict[str, Any]) -> list[str]:
    said = config.get("quantization") or config.get("quantization_config") or {}
    layers = [entry for entry in said.values() if isinstance(entry, dict)]
    # A GGUF has an entry for each layer and none for all.
    entries = layers if layers and not {"bits", "mode"} & said.keys() else [said, *layers] if said else []
    return ["mxfp8" if entry.get("mode") == "mxfp8" else str(entry.get("bits", 4)) for entry in entries]


@lru_cache(maxsize=1)
def published() -> tuple[Known, ...]:
    """Give every model that something is published about."""
    return tuple(Known.read(path) for path in sorted(PUBLISHED.glob("*.json")))


def known_model(source: str, files: ModelFiles, weights: list[Path]) -> Known | None:
    """Tell which published model a folder holds.

    A name alone does not do: its owner must be known, or the name be that of the folder, and the size must fit.

    Args:
        source: Hub name or folder.
        files: The model's folder.
        weights: Its safetensors files.

    Returns:
        None when nothing says so.
    """
    for known in published():
        if known.weights is not None:
            if len(weights) == 1 and _same_weights(weights[0], *known.weights):
                return known
        elif _named(known.name, source) and all(files.config.get(key) == value for key, value in known.shape.items()):
            return known
    return None


def card_of(spec: ModelSpec, files: ModelFiles, known: Known | None) -> ModelSpec | None:
    """Give the row of the registry whose card says how a model is pooled and prompted; None when there is none.

    Args:
        spec: The model as it was asked for; a folder is told by its name and size.
        files: Its folder.
        known: The published model that it is.
    """
    if spec.pooling is not None:
        return spec
    names = {name.lower() for name in (*_own_names(spec.source), *([known.name] if known else ()))}
    for row in list_models():
        if row.pooling and row.source.rpartition("/")[2].lower() in names and row.dimensions == files.config["hidden_size"]:
            return row
    return None


def _own_names(source: str) -> Iterator[str]:
    path = Path(source)
    yield path.name
    # The cache of huggingface_hub: models--owner--name/snapshots/commit.
    yield path.parent.parent.name.rpartition("--")[2]


def _named(name: str, source: str) -> bool:
    pattern = re.compile(re.escape(name) + _FORM, re.IGNORECASE)
    return any(pattern.fullmatch(candidate) for candidate in _names(source))


def _names(source: str) -> Iterator[str]:
    path = Path(source.removesuffix(".gguf"))
    if not path.is_absolute():
        if path.parent.name.lower() in _OWNERS:
            yield path.name
        return
    yield path.name
    # The cache of huggingface_hub: models--owner--name/snapshots/commit.
    owner, _, name = path.parent.parent.name.removeprefix("models--").partition("--")
    if owner.lower() in _OWNERS:
        yield name


def _same_weights(path: Path, size: int, sha256: str) -> bool:
    if path.stat().st_size != size:  # spares the hash of a large file
        return False
    return file_digest(path, "sha256") == sha256
