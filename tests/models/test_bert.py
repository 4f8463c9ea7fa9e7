"""BERT against a float64 reference: hidden states, pooling, names of weights, padding, lengths, prompts, refusals."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine, ModelSpec, register, registry
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.loading import load_model
from mlx_qwen_embeddings.errors import InputTooLongError, ModelLoadError
from mlx_qwen_embeddings.models import attention
from mlx_qwen_embeddings.models.activations import gelu, gelu_tanh
from mlx_qwen_embeddings.options import Pooling
from tests.support.bert_reference import CLS, SEP, BertShape, bert, bert_weights, word_piece, write_bert
from tests.support.checkpoints import Weights
from tests.support.forward import CPU, hidden_states, pooled_vectors
from tests.support.references import pooled

SHAPE = BertShape()
WEIGHTS = bert_weights(SHAPE)
ROWS = ((CLS, 9, 60, 7, SEP), (CLS, SEP), (CLS, *range(5, 75), SEP), (SEP,))
TEXTS = ["the tide follows the moon", "", "Water over water.", "tide " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"), WEIGHTS, SHAPE.config())


def write_json(folder: Path, **files: Any) -> Path:
    """Write the JSON files of sentence-transformers, named with ``__`` for a slash."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def reference(texts: list[str], pooling: str = "mean", max_length: int = 512) -> NDArray[np.float64]:
    rows = [encoding.ids for encoding in word_piece().encode_batch(texts)]
    cut = [row if len(row) <= max_length else [*row[: max_length - 1], SEP] for row in rows]
    return np.stack([pooled(bert(WEIGHTS, SHAPE.config(), row), pooling) for row in cut])


# Hidden states and vectors


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        BertShape(hidden_act="gelu_new"),
        BertShape(num_hidden_layers=1, num_attention_heads=1),
        BertShape(num_attention_heads=12, layer_norm_eps=0.1),
        BertShape(type_vocab_size=1, intermediate_size=40),
    ],
    ids=lambda shape: f"{shape.hidden_act}-{shape.num_attention_heads}-{shape.layer_norm_eps}-{shape.type_vocab_size}",
)
def test_hidden_states_equal_the_reference(shape: BertShape, tmp_path: Path) -> None:
    weights = bert_weights(shape, seed=1)
    states = hidden_states(write_bert(tmp_path, weights, shape.config()), ROWS)
    for row, state in zip(ROWS, states, strict=True):
        np.testing.assert_allclose(state, bert(weights, shape.config(), row), atol=1e-5)


def test_the_two_activations_differ(folder: Path) -> None:
    other = bert(WEIGHTS, SHAPE.config(hidden_act="gelu_new"), ROWS[2])
    assert np.abs(hidden_states(folder, ROWS[2:3])[0] - other).max() > 1e-4


@pytest.mark.parametrize(
    ("fast", "exact"),
    [(gelu, lambda x: x * (1 + mx.erf(x / 2**0.5)) / 2), (gelu_tanh, lambda x: x * mx.sigmoid(2 * ours_tanh(x)))],
    ids=["gelu", "gelu_new"],
)
def test_fast_activations_equal_the_exact_ones(fast: Callable[[Any], Any], exact: Callable[[Any], Any]) -> None:
    x = mx.concatenate([mx.linspace(-12, 12, 24_001), mx.array([-1e4, -40.0, -1e-30, 0.0, 40.0, 1e4])])
    assert np.abs(np.array(fast(x) - exact(x))).max() < 2e-6


def ours_tanh(x: mx.array) -> mx.array:
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


@pytest.mark.parametrize("pooling", ["mean", "first", "max", "last"])
def test_pooling_takes_only_real_tokens(pooling: Pooling, folder: Path) -> None:
    wanted = [pooled(bert(WEIGHTS, SHAPE.config(), row), pooling) for row in ROWS]
    np.testing.assert_allclose(pooled_vectors(folder, pooling, ROWS), wanted, atol=1e-6)


# Names of weights


def bare(weights: Weights) -> dict[str, Any]:
    return dict(weights)


def pretraining(weights: Weights) -> dict[str, Any]:
    """Name weights as bert-base-uncased does: a prefix, TensorFlow's names of norms, a pooler, heads and a buffer."""
    old = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
    named = {}
    for name, value in weights.items():
        for new, past in old.items():
            name = name.replace(new, past)  # noqa: PLW2901 - two replacements in a row
        named[f"bert.{name}"] = value
    small = np.zeros((2, 48), np.float32)
    heads = dict.fromkeys(("cls.seq_relationship.weight", "cls.predictions.transform.LayerNorm.gamma"), small)
    buffer = {"bert.embeddings.position_ids": np.arange(512, dtype=np.int32)[None]}
    return named | heads | buffer | {"bert.pooler.dense.weight": small, "bert.pooler.dense.bias": small[0]}


def pooler_only(weights: Weights) -> dict[str, Any]:
    return {**weights, "pooler.dense.weight": np.zeros((48, 48), np.float32), "pooler.dense.bias": np.zeros(48, np.float32)}


@pytest.mark.parametrize("layout", [bare, pretraining, pooler_only])
def test_every_layout_gives_the_same(layout: Callable[[Weights], dict[str, Any]], folder: Path, tmp_path: Path) -> None:
    found = hidden_states(write_bert(tmp_path, layout(WEIGHTS), SHAPE.config()), ROWS)
    for state, wanted in zip(found, hidden_states(folder, ROWS), strict=True):
        np.testing.assert_array_equal(state, wanted)


def test_weights_stored_in_float16_are_computed_in_float32(tmp_path: Path) -> None:
    stored = {name: mx.array(value).astype(mx.float16) for name, value in WEIGHTS.items()}
    states = hidden_states(write_bert(tmp_path, stored, SHAPE.config()), ROWS)
    rounded = {name: np.array(value.astype(mx.float32)) for name, value in stored.items()}
    for row, state in zip(ROWS, states, strict=True):
        np.testing.assert_allclose(state, bert(rounded, SHAPE.config(), row), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder.layer.1.output.dense.weight": None}, r"lack encoder\.layer\.1\.output\.dense\.weight"),
        ({"adapter.weight": np.zeros(3, np.float32)}, r"hold the unknown adapter\.weight"),
        ({"classifier.weight": np.zeros((2, 48), np.float32)}, r"hold the unknown classifier\.weight"),
        ({"embeddings.word_embeddings.weight": np.zeros((96, 44), np.float32)}, r"another shape for embeddings\.word"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    weights = {name: value for name, value in (WEIGHTS | change).items() if value is not None}
    with pytest.raises(ModelLoadError, match=words):
        load_model(ModelFiles(write_bert(tmp_path, weights, SHAPE.config())), CPU)


# Padding, pieces, blocks


def test_a_padded_batch_equals_single_runs_at_every_length(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = [*range(1, 34), 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512]
    rows = [tuple(rng.integers(5, 77, length)) for length in lengths]
    together = hidden_states(folder, rows)
    for states, row in zip(together, rows, strict=True):
        (alone,) = hidden_states(folder, [row])
        for pooling in ("mean", "first", "max"):
            difference = pooled(states.astype(np.float64), pooling) - pooled(alone.astype(np.float64), pooling)
            assert np.abs(difference).max() < 1e-6


@pytest.mark.parametrize("score_bytes", [1, 4 * 2 * 6 * 33 * 10, 4 * 2 * 6 * 33 * 40])
def test_attention_by_hand_equals_softmax(score_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mx.random.seed(0)
    q, k, v = (mx.random.normal((2, 6, 33, 16)) * size for size in (5, 1, 1))
    lengths = mx.array([33, 5])
    real = (mx.arange(33) < lengths[:, None])[:, None, None]
    whole = np.array(mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask=real))
    monkeypatch.setattr(attention, "SCORE_BYTES", score_bytes)
    found = np.array(attention.padded_attention(q, k, v, lengths, scale=0.25))
    np.testing.assert_allclose(found, whole, atol=5e-6)
    assert np.isfinite(np.array(attention.padded_attention(q, k, v, mx.array([0, 1]), scale=0.25))).all()


def test_attention_in_bfloat16_returns_bfloat16() -> None:
    mx.random.seed(0)
    q, k, v = (mx.random.normal((1, 2, 7, 16)).astype(mx.bfloat16) for _ in range(3))
    found = attention.padded_attention(q, k, v, mx.array([5]), scale=0.25)
    wide_q, wide_k, wide_v = (x.astype(mx.float32) for x in (q, k, v))
    exact = attention.padded_attention(wide_q, wide_k, wide_v, mx.array([5]), scale=0.25)
    assert found.dtype == mx.bfloat16
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), np.array(exact), atol=0.02)


# Through the engine


@pytest.mark.parametrize(("mode", "pooling"), [("mean", "mean"), ("cls", "first"), ("max", "max")])
def test_from_text_to_unit_vector(mode: str, pooling: str, tmp_path: Path) -> None:
    write_bert(tmp_path, WEIGHTS, SHAPE.config())
    write_json(tmp_path, **{"1_Pooling__config": {"pooling_mode": mode}})
    with EmbeddingEngine(str(tmp_path)) as engine:
        np.testing.assert_allclose(engine.embed_documents(TEXTS), reference(TEXTS, pooling), atol=1e-6)
        np.testing.assert_array_equal(engine.embed_queries(TEXTS), engine.embed_documents(TEXTS))
        assert (engine.dimensions, engine.max_length, engine.limit) == (48, 512, 512)


def test_without_a_stated_pooling_the_mean_is_taken_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mlx_qwen_embeddings"), EmbeddingEngine(str(folder)) as engine:
        np.testing.assert_allclose(engine.embed_documents(TEXTS), reference(TEXTS, "mean"), atol=1e-6)
    assert len([record for record in caplog.records if "does not say how its vectors are pooled" in record.message]) == 1


def test_a_long_text_is_cut_at_the_last_position(folder: Path) -> None:
    text = "tide over water " * 300
    with EmbeddingEngine(str(folder)) as engine:
        assert engine.count_tokens([text]) == [902]
        np.testing.assert_allclose(engine.embed_documents([text]), reference([text]), atol=1e-6)
        assert engine.stats().truncations == 1
        with pytest.raises(InputTooLongError, match="902 tokens, more than max_length=512"):
            engine.embed_documents([text], truncate="error")
        with pytest.raises(ValueError, match="between 3 and 512 for this model, got 513"):
            engine.embed_documents([text], max_length=513)


def test_sentence_transformers_length_is_a_default_that_a_call_can_raise(tmp_path: Path) -> None:
    write_bert(tmp_path, WEIGHTS, SHAPE.config())
    write_json(tmp_path, sentence_bert_config={"max_seq_length": 20, "do_lower_case": False})
    text = "tide over water " * 20
    with EmbeddingEngine(str(tmp_path)) as engine:
        assert (engine.max_length, engine.limit) == (20, 512)
        np.testing.assert_allclose(engine.embed_documents([text]), reference([text], max_length=20), atol=1e-6)
        np.testing.assert_allclose(engine.embed_documents([text], max_length=512), reference([text]), atol=1e-6)


# Prompts


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_models", dict(registry._models))


PROMPTS = {"query": "query: ", "document": "passage: "}


@pytest.mark.parametrize(
    ("own", "query", "document"),
    [
        (None, "query: ", "passage: "),
        ({}, "query: ", "passage: "),
        # sentence-transformers saves these if no prompt was set.
        ({"query": "", "document": ""}, "query: ", "passage: "),
        ({"query": "moon: "}, "moon: ", ""),
    ],
    ids=str,
)
@pytest.mark.usefixtures("table")
def test_the_registrys_prompts_apply_if_the_files_name_none(
    own: dict[str, str] | None, query: str, document: str, tmp_path: Path
) -> None:
    write_bert(tmp_path, WEIGHTS, SHAPE.config())
    if own is not None:
        write_json(tmp_path, config_sentence_transformers={"prompts": own, "default_prompt_name": None})
    register(ModelSpec("tiny-e5", str(tmp_path), local=True, prompts=PROMPTS))
    with EmbeddingEngine("tiny-e5") as engine:
        np.testing.assert_allclose(engine.embed_queries(TEXTS), reference([query + text for text in TEXTS]), atol=1e-6)
        np.testing.assert_allclose(engine.embed_documents(TEXTS), reference([document + text for text in TEXTS]), atol=1e-6)
        np.testing.assert_allclose(engine.embed_queries(TEXTS, instruction=""), reference(TEXTS), atol=1e-6)
        own_words = reference(["the moon" + text for text in TEXTS])
        np.testing.assert_allclose(engine.embed_queries(TEXTS, instruction="the moon"), own_words, atol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_excluding_the_prompt_from_pooling_is_refused(mode: str, tmp_path: Path) -> None:
    write_bert(tmp_path, WEIGHTS, SHAPE.config())
    write_json(tmp_path, config_sentence_transformers={"prompts": {"query": "query: "}})
    write_json(tmp_path, **{"1_Pooling__config": {"pooling_mode": mode, "include_prompt": False}})
    with EmbeddingEngine(str(tmp_path)) as engine:
        with pytest.raises(ModelLoadError, match=r"include_prompt: false.*instruction=\"\""):
            engine.embed_queries(TEXTS)
        with pytest.raises(ModelLoadError, match="include_prompt"):
            engine.embed_documents(TEXTS, instruction="query: ")
        assert engine.embed_documents(TEXTS).shape == engine.embed_queries(TEXTS, instruction="").shape == (4, 48)
        assert engine.embed_queries(TEXTS, pooling="last").shape == (4, 48)


# Refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position_embedding_type": "relative_key"}, "position embeddings 'relative_key'.*only 'absolute'"),
        ({"hidden_act": "relu"}, "activation 'relu'.*only 'gelu', 'gelu_new'"),
        ({"is_decoder": True}, "a decoder"),
        ({"num_attention_heads": 5}, "5 heads, which do not divide hidden_size=48"),
        ({"intermediate_size": None, "layer_norm_eps": None}, "lacks intermediate_size, layer_norm_eps: copy"),
    ],
    ids=str,
)
def test_unsupported_variants_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_bert(tmp_path, WEIGHTS, SHAPE.config(**change))
    with pytest.raises(ModelLoadError, match=words):
        load_model(ModelFiles(tmp_path), CPU)


@pytest.mark.parametrize("kind", ["t5", "roberta", "nomic_bert", "modernbert"])
def test_other_encoders_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    write_bert(tmp_path, WEIGHTS, SHAPE.config(model_type=kind))
    with (
        EmbeddingEngine(str(tmp_path)) as engine,
        pytest.raises(ModelLoadError, match=f"a model of type '{kind}', which is not served; served are: qwen3, bert"),
    ):
        engine.embed_documents(TEXTS)
