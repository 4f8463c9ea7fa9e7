"""The estimate of a batch's memory is close to MLX's peak, and a batch that does not fit is never started."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute import memory as footprint
from mlx_qwen_embeddings.compute.encoder import Encoder
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError
from mlx_qwen_embeddings.models import attention
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.checkpoints import NANO_ENTRIES, WITH_TOKENIZER, Shape, random_weights, write_checkpoint

pytestmark = pytest.mark.heavy

WIDE = Shape(
    hidden_size=256, intermediate_size=768, num_attention_heads=4, num_key_value_heads=2, head_dim=128, vocab_size=64
)

LONG = Shape(
    hidden_size=32, intermediate_size=64, num_attention_heads=1, num_key_value_heads=1, head_dim=16, vocab_size=NANO_ENTRIES
)
"""Narrow, so that only attention takes time: half of the scores in the first layer, one row of them in the last."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 0.6B's proportions at a quarter of its width."""
    folder = tmp_path_factory.mktemp("wide")
    write_checkpoint(folder, random_weights(WIDE), WIDE.config(max_position_embeddings=8192))
    return folder


@pytest.mark.parametrize("name", ["nano", "wide"])
@pytest.mark.parametrize(("rows", "length"), [(1, 64), (16, 16), (2, 256), (1, 2048), (1, 4096)])
def test_the_estimate_is_near_the_peak(name: str, rows: int, length: int, wide: Path) -> None:
    files = ModelFiles(NANO_FOLDER if name == "nano" else wide)
    encoder = Encoder(files, choose_backend("cpu"), lanes=1)
    texts = [np.ones(length, np.int32)] * rows
    encoder.encode(texts, "last")  # so that one-time allocations do not count
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    encoder.encode(texts, "last")
    peak = mx.get_peak_memory() - before
    encoder.release()
    assert 1 < footprint.piece_bytes(files.config, rows, length) / peak < 2.2


def test_the_longest_text_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    length = 32_768
    config = LONG.config(max_position_embeddings=length)
    write_checkpoint(tmp_path, random_weights(LONG), config)
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said | {"model_max_length": length}))
    picked = np.random.default_rng(0).choice(np.array([" a", " of", " the", " in"]), length - 1)
    text = "".join(picked)
    with EmbeddingEngine(str(tmp_path), device="cpu", cache_bytes=0) as engine:
        assert engine.count_tokens([text]) == [length], "including its end token"
        engine.embed_documents(["so that one-time allocations do not count"])
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        vector = engine.embed_documents([text], max_length=length, truncate="error")
        peak = mx.get_peak_memory() - before
        monkeypatch.setattr(attention, "CAUSAL_ROWS", 96)
        other = engine.embed_documents([text], max_length=length)
    assert 1 < footprint.piece_bytes(config, 1, length) / peak < 2.2
    assert peak < 4 * LONG.num_attention_heads * length**2 / 40, "all scores were never in memory at once"
    assert np.isfinite(vector).all()
    assert np.abs(vector - other).max() < 1e-5


def test_a_text_that_does_not_fit_fails_alone_and_before_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, random_weights(WITH_TOKENIZER), WITH_TOKENIZER.config())
    monkeypatch.setattr(footprint, "WORTH_ASKING", 0)
    with EmbeddingEngine(str(tmp_path), device="cpu", lanes=1) as engine:
        texts = ["a short text", "word " * 1500, "another"]
        right = engine.embed_documents(texts)
        needed = footprint.piece_bytes(WITH_TOKENIZER.config(), 1, 100)
        monkeypatch.setattr(mx, "get_cache_memory", lambda: 0)
        monkeypatch.setattr(footprint, "available_memory", lambda: needed)
        with EmbeddingEngine(str(tmp_path), device="cpu", lanes=1) as own:
            with pytest.raises(MLXQwenEmbeddingsError, match=r"texts\[1\].* are free.*max_length"):
                own.embed_documents(texts)
            short = own.embed_documents([texts[0], texts[2]])
    assert np.abs(short - right[[0, 2]]).max() < 1e-5


def test_a_batch_that_does_not_fit_runs_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, random_weights(WITH_TOKENIZER), WITH_TOKENIZER.config())
    texts = [f"line {number} of a file that has many lines" for number in range(60)]
    with EmbeddingEngine(str(tmp_path), device="cpu") as engine:
        right = engine.embed_documents(texts)
    monkeypatch.setattr(footprint, "WORTH_ASKING", 0)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 0)
    monkeypatch.setattr(footprint, "available_memory", lambda: footprint.piece_bytes(WITH_TOKENIZER.config(), 10, 16))
    with EmbeddingEngine(str(tmp_path), device="cpu", lanes=1) as engine:
        vectors = engine.embed_documents(texts)
        assert engine.stats().batches > 3
        assert not engine.stats().failures
    assert np.abs(vectors - right).max() < 1e-5
