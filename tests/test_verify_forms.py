"""``verify`` on what is no safetensors folder of a Qwen3: a GGUF file, and a BERT."""

import json
from pathlib import Path

import numpy as np
import pytest
from bert_reference import BertShape, bert_weights, write_bert
from checkpoints import Shape, random_weights
from gguf_files import metadata_of, tokenizer_metadata, write_gguf

from mlx_qwen_embeddings import verify
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.verification import known
from mlx_qwen_embeddings.verification.known import Known

SHAPE = Shape(hidden_size=64, intermediate_size=192, head_dim=32, vocab_size=16_384)
VECTORS = ["loads", "finite values", "unit norms", "batch = single", "cached = computed", "dimensions"]
QWEN3 = ["end token", "end token, cut", "pooling", "prompts", "normalisation"]


def gguf_file(folder: Path, scale: float = 1.0, **said: object) -> Path:
    weights = random_weights(SHAPE)
    weights["norm.weight"] = weights["norm.weight"] * np.float32(scale)
    named = {"tokenizer.ggml.padding_token_id": 16_381, "tokenizer.ggml.eos_token_id": 16_383}
    own = metadata_of(SHAPE.config()) | tokenizer_metadata(NANO_FOLDER / "tokenizer.json") | named | said
    return write_gguf(folder / "Qwen3-Embedding-0.6B-Q8_0.gguf", weights, own, "Q8_0")


def test_a_gguf_passes_what_can_be_checked_of_it(tmp_path: Path) -> None:
    report = verify(str(gguf_file(tmp_path)))
    assert report.ok, str(report)
    assert report.known is None  # it has the name of a published model, but not its size
    assert [row.name for row in report.rows] == [*QWEN3, *VECTORS]


def test_a_gguf_that_is_pooled_otherwise_or_gives_nan_fails(tmp_path: Path) -> None:
    path = gguf_file(tmp_path, scale=float("nan"), **{"qwen3.pooling_type": 1})
    assert {row.name for row in verify(str(path)).failures} == {"pooling", "finite values"}


def test_a_gguf_of_a_published_model_is_compared_with_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = next(entry for entry in known.published() if entry.name == "Qwen3-Embedding-0.6B")
    parts = {name: getattr(real, name) for name in Known.__slots__}
    small = Known(**parts | {"shape": {"model_type": "qwen3", "hidden_size": 64}})
    monkeypatch.setattr(known, "published", lambda: (small,))
    report = verify(str(gguf_file(tmp_path)))
    assert report.known == "Qwen3-Embedding-0.6B"
    rows = {row.name: row for row in report.failures}
    assert set(rows) == {"published scores", "published document", "published query"}  # its weights are random
    assert rows["published scores"].expected.endswith("± 0.01")  # 8 bits


def test_a_bert_passes_and_one_without_its_last_token_fails(tmp_path: Path) -> None:
    shape = BertShape()
    folder = write_bert(tmp_path, bert_weights(shape), shape.config())
    report = verify(str(folder))
    assert report.ok, str(report)
    assert [row.name for row in report.rows] == ["end token", "end token, cut", "weights", "dtype", *VECTORS]
    assert report.rows[0].found.startswith("[SEP] (")
    said = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(said | {"post_processor": None}), "utf-8")
    failures = verify(str(folder)).failures
    assert [row.name for row in failures] == ["end token", "end token, cut", "finite values"]  # the empty text's
    assert "copy the original model's tokenizer.json" in failures[0].remedy
    assert "mend the end token" in failures[-1].remedy
