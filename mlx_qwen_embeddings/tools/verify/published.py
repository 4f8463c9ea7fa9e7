"""Which published model a folder holds, what is published about it, and how close to that its vectors must be."""

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

FOLDER = Path(__file__).parent / "published"
_OWNERS = ("qwen", "mlx-community")
_FORM = r"(-([2-8]bit|bf16|fp16|mxfp[48]|nvfp4|gguf))?(-dwq)?([-.:](bf16|f16|f32|q4_0|q4_1|q6_k|q8_0))?"
"""What may follow a model's name. With any other ending it may be a fine-tune, whose vectors differ."""

QUANTISED_TOLERANCE = {"8": 0.01, "mxfp8": 0.02, "6": 0.015, "5": 0.025, "4": 0.05, "3": 0.12, "2": 0.4}
"""Tolerance of a score by bits per weight.

If quantisation changes a vector by a cosine c, its error has length sqrt(2 (1 - c)), and changes a score by about that
over sqrt(d / 2): by 0.01 for c = 0.98 and d = 1024. Real errors are not independent, so several times as much is allowed.
A wrong pooling, prompt or end token changes scores by 0.1 and more.
"""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model that something is published about.

    Attributes:
        name: Its name.
        prompts: Its prompts by role.
        queries: Texts that are embedded as queries.
        documents: Texts that are embedded as documents.
        scores: Cosine of every query with every document; shape (queries, documents).
        coordinates: Role, text, and the first coordinates of the text's vector.
        precision: Tolerance of a score for the unquantised model in float32.
        weights: Size in bytes and SHA-256 of the file with exactly these weights; None if the name identifies the model.
        shape: Entries of config.json that must match.
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
    def read(cls, path: Path) -> "PublishedModel":
        """Read a file of ``published/``."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        weights = content.get("weights")
        return cls(
            name=content["name"],
            prompts=content["prompts"],
            queries=content["scores"]["queries"],
            documents=content["scores"]["documents"],
            scores=content["scores"]["cosine"],
            coordinates=[(row["role"], row["text"], row["first"]) for row in content.get("vectors", [])],
            precision=content["precision"],
            weights=(weights["bytes"], weights["sha256"]) if weights else None,
            shape=content.get("shape", {}),
        )

    def tolerance(self, config: dict[str, Any], dtype: str, kinds: Collection[str] = ()) -> float:
        """Return the largest difference that is allowed between a score and the published one.

        ``kinds`` are the types of the tensors of a GGUF file.
        """
        # bfloat16 has eight bits of mantissa, and there are 28 layers: in vLLM it moved the card's own scores by 0.003.
        allowed = [self.precision, 5e-3 if dtype == "bfloat16" else 0.0]
        if self.weights is None:
            allowed += [QUANTISED_TOLERANCE.get(form, QUANTISED_TOLERANCE["4"]) for form in _forms(config)]
            if "Q6_K" in kinds:  # MLX unpacks it, so the configuration does not show it
                allowed.append(QUANTISED_TOLERANCE["6"])
        return max(allowed)


def _forms(config: dict[str, Any]) -> list[str]:
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    layers = [entry for entry in quantization.values() if isinstance(entry, dict)]
    # A GGUF file has an entry for each layer and none for the whole model.
    whole = [quantization] if quantization and (not layers or {"bits", "mode"} & quantization.keys()) else []
    return ["mxfp8" if entry.get("mode") == "mxfp8" else str(entry.get("bits", 4)) for entry in [*whole, *layers]]


@lru_cache(maxsize=1)
def published_models() -> tuple[PublishedModel, ...]:
    """Return all models that something is published about."""
    return tuple(PublishedModel.read(path) for path in sorted(FOLDER.glob("*.json")))


def find_published(source: str, files: ModelFiles, weights: list[Path]) -> PublishedModel | None:
    """Return the published model that a folder holds; None if it is not known to hold one.

    A matching name is not enough: the size must match too, and the owner must be known unless the name is a folder's.
    ``source`` is a Hub name or a folder; ``weights`` are the model's safetensors files.
    """
    for model in published_models():
        if model.weights is not None:
            size, sha256 = model.weights  # comparing the size first spares hashing large files
            if [path.stat().st_size for path in weights] == [size] and file_digest(weights[0], "sha256") == sha256:
                return model
        elif model.shape.items() <= files.config.items() and any(
            re.fullmatch(re.escape(model.name) + _FORM, name, re.IGNORECASE) for name in _names(source)
        ):
            return model
    return None


def find_card(spec: ModelSpec, files: ModelFiles, published: PublishedModel | None) -> ModelSpec | None:
    """Return the registry's row with the model's pooling and prompts; None if there is none.

    A folder is identified by its name and size.
    """
    if spec.pooling is not None:
        return spec
    path = Path(spec.source)
    names = {path.name.lower(), _hub_name(path)[1].lower(), published.name.lower() if published else ""}
    rows = [row for row in list_models() if row.pooling and row.dimensions == files.config["hidden_size"]]
    return next((row for row in rows if row.source.rpartition("/")[2].lower() in names), None)


def _hub_name(path: Path) -> tuple[str, str]:
    """Return owner and name from a path in huggingface_hub's cache: models--owner--name/snapshots/commit."""
    owner, _, name = path.parent.parent.name.removeprefix("models--").partition("--")
    return owner, name


def _names(source: str) -> Iterator[str]:
    path = Path(source.removesuffix(".gguf"))
    if not path.is_absolute():
        if path.parent.name.lower() in _OWNERS:
            yield path.name
        return
    yield path.name
    owner, name = _hub_name(path)
    if owner.lower() in _OWNERS:
        yield name
