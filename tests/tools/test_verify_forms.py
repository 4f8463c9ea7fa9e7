"""``verify`` with a GGUF file and with a BERT."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen_embeddings import verify
from mlx_qwen_embeddings.registry import list_models
from mlx_qwen_embeddings.tools.verify import published
from mlx_qwen_embeddings.tools.verify.published import PublishedModel
from tests.support.bert_reference import BertShape, bert_weights, write_bert
from tests.support.bpe_tokenizer import END_ID, ENTRIES, TURN_END_ID, write_bpe
from tests.support.checkpoints import Shape, random_weights
from tests.support.gguf_files import metadata_of, tokenizer_metadata, write_gguf

SHAPE = Shape(hidden_size=64, intermediate_size=192, head_dim=32, vocab_size=ENTRIES)
VECTORS = ["loads", "finite values", "unit norms", "batch = single", "cached = computed", "dimensions"]
QWEN3 = ["end token", "end token, cut", "pooling", "prompts", "normalisation"]


def gguf_file(folder: Path, scale: float = 1.0, **said: object) -> Path:
    weights = random_weights(SHAPE)
    weights["norm.weight"] = weights["norm.weight"] * np.float32(scale)
    named = {"tokenizer.ggml.padding_token_id": END_ID, "tokenizer.ggml.eos_token_id": TURN_END_ID}
    bpe = write_bpe(folder.parent / f"{folder.name}-tokenizer.json")
    own = metadata_of(SHAPE.config()) | tokenizer_metadata(bpe) | named | said
    return write_gguf(folder / "Qwen3-Embedding-0.6B-Q8_0.gguf", weights, own, "Q8_0")


def test_a_gguf_passes_the_checks_that_apply_to_it(tmp_path: Path) -> None:
    report = verify(str(gguf_file(tmp_path)))
    assert report.ok, str(report)
    assert report.known is None  # its name is that of a published model, its size is not
    assert [row.name for row in report.rows] == [*QWEN3, *VECTORS]


def test_a_gguf_with_other_pooling_or_nan_fails(tmp_path: Path) -> None:
    path = gguf_file(tmp_path, scale=float("nan"), **{"qwen3.pooling_type": 1})
    assert {row.name for row in verify(str(path)).failures} == {"pooling", "finite values"}


def test_a_gguf_of_a_published_model_is_compared_with_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = next(entry for entry in published.published_models() if entry.name == "Qwen3-Embedding-0.6B")
    parts = {name: getattr(real, name) for name in PublishedModel.__slots__}
    small = PublishedModel(**parts | {"shape": {"model_type": "qwen3", "hidden_size": 64}})
    monkeypatch.setattr(published, "published_models", lambda: (small,))
    report = verify(str(gguf_file(tmp_path)))
    assert report.known == "Qwen3-Embedding-0.6B"
    rows = {row.name: row for row in report.failures}
    assert set(rows) == {"published scores", "published document", "published query"}  # its weights are random
    assert rows["published scores"].expected.endswith("± 0.01")  # 8 bits


def test_a_bert_passes_and_fails_without_its_end_token(tmp_path: Path) -> None:
    shape = BertShape()
    folder = write_bert(tmp_path, bert_weights(shape), shape.config())
    report = verify(str(folder))
    assert report.ok, str(report)
    assert [row.name for row in report.rows] == ["end token", "end token, cut", "weights", "dtype", *VECTORS]
    assert report.rows[0].found.startswith("[SEP] (")
    said = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(said | {"post_processor": None}), "utf-8")
    failures = verify(str(folder)).failures
    assert [row.name for row in failures] == ["end token", "end token, cut", "finite values"]  # of the empty text
    assert "copy the original model's tokenizer.json" in failures[0].remedy
    assert "fix the end token" in failures[-1].remedy


def write_named(folder: Path, name: str, width: int = 384, prompts: dict[str, str] | None = None) -> Path:
    """Write a BERT with random weights under the name of a published one; return its folder."""
    shape = BertShape(hidden_size=width)
    path = write_bert(folder / name, bert_weights(shape), shape.config())
    (path / "1_Pooling").mkdir()
    mode = "cls" if name.startswith("bge") else "mean"
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}), "utf-8")
    (path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}), "utf-8")
    return path


def test_pooling_and_prompts_of_a_bert_in_the_registry(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    good = write_named(tmp_path, "e5-small-v2", prompts=prompts)
    rows = {row.name: row for row in verify(str(good)).rows}
    assert (rows["pooling"].ok, rows["prompts"].ok) == (True, True)
    (good / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}', "utf-8")
    (good / "config_sentence_transformers.json").unlink()
    failures = {row.name: row for row in verify(str(good)).failures}
    assert set(failures) == {"pooling", "prompts"}
    assert (failures["pooling"].expected, failures["pooling"].found) == ("mean token", "first token")
    assert "copy the original model's modules.json and 1_Pooling" in failures["pooling"].remedy
    assert failures["prompts"].expected == "query 'query: ', document 'passage: '"
    assert f'set "prompts" to {json.dumps(prompts)}' in failures["prompts"].remedy


def test_the_registrys_row_applies_only_to_a_model_of_its_size(tmp_path: Path) -> None:
    assert "pooling" not in {row.name for row in verify(str(write_named(tmp_path, "e5-small-v2", width=48))).rows}
    snapshot = tmp_path / "models--BAAI--bge-small-en-v1.5" / "snapshots"
    failures = {row.name for row in verify(str(write_named(snapshot, "bge0c0ffee"))).failures}
    assert failures == {"prompts"}


def test_every_bert_in_the_registry_has_pooling_and_prompts() -> None:
    cards = {row.name: (row.pooling, bool(row.prompts)) for row in list_models() if row.pooling}
    assert len(cards) == 10
    assert (cards["all-minilm"], cards["bge-base"], cards["e5-large"]) == (("mean", False), ("first", True), ("mean", True))
    assert (cards["mxbai-embed-large"], cards["snowflake-arctic-embed-m"]) == (("first", True), ("first", True))


def test_the_scores_of_all_minilm_are_those_of_its_readme() -> None:
    minilm = next(entry for entry in published.published_models() if entry.name == "all-MiniLM-L6-v2")
    assert minilm.scores == [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    assert minilm.weights == (90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
