"""BERT in float64 numpy, and tiny BERT checkpoints with random weights and a WordPiece tokenizer. Needs no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from tests.support.checkpoints import Weights, write_checkpoint

Array = NDArray[np.float64]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "tide", "follow", "moon", "over", "water", "query", "passage", ":", ".", *"abcdefghijklmnopqrstuvwxyz")
VOCABULARY = {word: number for number, word in enumerate((*SPECIAL, *WORDS, *(f"##{word}" for word in WORDS)))}
CLS, SEP = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """Sizes of a model. The defaults all differ, so that a test notices if two are swapped."""

    hidden_size: int = 48
    intermediate_size: int = 112
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    vocab_size: int = 96
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"

    def config(self, **changes: Any) -> dict[str, Any]:
        """Return the content of ``config.json``. A change to None removes the key."""
        config = asdict(self) | {"model_type": "bert", "architectures": ["BertModel"], "torch_dtype": "float32"}
        return {name: value for name, value in (config | changes).items() if value is not None}


def bert_weights(shape: BertShape, seed: int = 0) -> Weights:
    """Draw the weights, named as in most checkpoints: no ``bert.`` prefix, no heads."""
    rng = np.random.default_rng(seed)

    def uniform(*size: int, scale: float) -> NDArray[np.float32]:
        return rng.uniform(-scale, scale, size).astype(np.float32)

    def dense(name: str, rows: int, columns: int) -> Weights:
        weight = uniform(rows, columns, scale=math.sqrt(3 / columns))
        return {f"{name}.weight": weight, f"{name}.bias": uniform(rows, scale=0.5)}

    def norm(name: str) -> Weights:
        return {f"{name}.weight": 1 + uniform(hidden, scale=0.5), f"{name}.bias": uniform(hidden, scale=0.5)}

    hidden, inner = shape.hidden_size, shape.intermediate_size
    sizes = {"word": shape.vocab_size, "position": shape.max_position_embeddings, "token_type": shape.type_vocab_size}
    weights = {f"embeddings.{name}_embeddings.weight": uniform(rows, hidden, scale=1.0) for name, rows in sizes.items()}
    weights |= norm("embeddings.LayerNorm")
    for layer in range(shape.num_hidden_layers):
        at = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            weights |= dense(f"{at}attention.self.{name}", hidden, hidden)
        weights |= dense(f"{at}attention.output.dense", hidden, hidden) | norm(f"{at}attention.output.LayerNorm")
        weights |= dense(f"{at}intermediate.dense", inner, hidden)
        weights |= dense(f"{at}output.dense", hidden, inner) | norm(f"{at}output.LayerNorm")
    return weights


def bert(weights: Mapping[str, NDArray[Any]], config: Mapping[str, Any], ids: Sequence[int]) -> Array:
    """Return the hidden states of one text, shape (tokens, hidden), one head at a time; arXiv:1810.04805."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    eps = config["layer_norm_eps"]

    def linear(name: str, x: Array) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled: Array = centred / np.sqrt(x.var(axis=-1, keepdims=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]
        return scaled

    words, places, types = (w[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type"))
    x = norm("embeddings.LayerNorm", words[np.asarray(ids)] + places[: len(ids)] + types[0])
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            np.split(linear(f"{at}attention.self.{name}", x), config["num_attention_heads"], axis=-1)
            for name in ("query", "key", "value")
        )
        attended = np.concatenate([_attend(*parts) for parts in zip(q, k, v, strict=True)], axis=-1)
        x = norm(f"{at}attention.output.LayerNorm", linear(f"{at}attention.output.dense", attended) + x)
        inner = ACTIVATIONS[config["hidden_act"]](linear(f"{at}intermediate.dense", x))
        x = norm(f"{at}output.LayerNorm", linear(f"{at}output.dense", inner) + x)
    return x


def _attend(q: Array, k: Array, v: Array) -> Array:
    scores = q @ k.T / math.sqrt(q.shape[-1])
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=-1, keepdims=True) @ v)


def _gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def _gelu_new(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


ACTIVATIONS = {"gelu": _gelu, "gelu_new": _gelu_new}


def word_piece() -> Tokenizer:
    """Build a tokenizer like bert-base-uncased's, with a small vocabulary."""
    tokenizer = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))  # noqa: S106 - not a password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return tokenizer


def write_bert(folder: Path, weights: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Write a model folder with the WordPiece tokenizer, and return its path."""
    write_checkpoint(folder, weights, config)
    word_piece().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    return folder
