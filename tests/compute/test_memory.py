"""Quantised weights are unpacked on the CPU only if they fit into memory. Both forms give the same vectors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings._files import human_size
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute import loading, memory
from mlx_qwen_embeddings.compute.loading import load_model
from mlx_qwen_embeddings.compute.mlx.backend import Backend
from mlx_qwen_embeddings.compute.quantization import packings, unpacked_bytes
from tests.support.checkpoints import NANO_ENTRIES, PACKABLE, pack, random_weights, write_checkpoint

SHAPE = replace(PACKABLE, vocab_size=NANO_ENTRIES)
"""With a row for every id of the tokenizer, which the engine checks."""

AFFINE = {"mode": "affine", "bits": 4, "group_size": 64}
PLAIN_BYTES = 4 * sum(value.size for value in random_weights(SHAPE).values())


def write(folder: Path, how: dict[str, Any]) -> Path:
    packed = pack(random_weights(SHAPE), **how)
    return write_checkpoint(folder, packed, SHAPE.config(quantization=how))


def vectors(folder: Path) -> np.ndarray[Any, Any]:
    with EmbeddingEngine(str(folder), device="cpu") as engine:
        return engine.embed_documents(["hello world", "The capital of China is Beijing.", ""])


@pytest.mark.parametrize("how", [AFFINE, {"mode": "mxfp8", "bits": 8, "group_size": 32}], ids=["affine", "mxfp8"])
def test_weights_that_do_not_fit_stay_packed_with_one_warning_and_equal_vectors(
    how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path, how)
    unpacked = vectors(folder)
    assert caplog.messages == []
    monkeypatch.setattr(loading, "available_memory", lambda: int(PLAIN_BYTES / loading.MEMORY_SHARE) - 1)
    packed = vectors(folder)
    (message,) = caplog.messages
    assert "stay packed" in message
    assert human_size(PLAIN_BYTES) in message
    np.testing.assert_allclose(packed, unpacked, atol=1e-5)


@pytest.mark.parametrize(("available", "kept"), [(1.0, True), (1.01 / loading.MEMORY_SHARE, False)])
def test_the_limit_is_a_share_of_the_free_memory(
    available: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    folder = write(tmp_path, AFFINE)
    monkeypatch.setattr(loading, "available_memory", lambda: int(available * PLAIN_BYTES))
    model: Any = load_model(ModelFiles(folder), Backend("cpu", "float32"))
    assert (model.embed_tokens.weight.dtype == mx.uint32) is kept


def test_plain_weights_load_whatever_memory_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_checkpoint(tmp_path, random_weights(SHAPE), SHAPE.config())
    monkeypatch.setattr(loading, "available_memory", lambda: 1)
    load_model(ModelFiles(folder), Backend("cpu", "float32"))
    assert caplog.messages == []


def test_weights_are_unpacked_if_the_free_memory_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, AFFINE)
    monkeypatch.setattr(loading, "available_memory", lambda: None)
    model: Any = load_model(ModelFiles(folder), Backend("cpu", "float32"))
    assert model.embed_tokens.weight.dtype == mx.float32


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_estimate_is_the_size_of_the_plain_weights(bits: int, dtype: mx.Dtype) -> None:
    how = {"mode": "affine", "bits": bits, "group_size": 32}
    packed = pack(random_weights(SHAPE), mode="affine", bits=bits, group_size=32)
    layers = packings({"quantization": how}, packed)
    assert unpacked_bytes(packed, layers, dtype) == PLAIN_BYTES // 4 * dtype.size


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_the_estimate_knows_the_default_bits_of_a_mode(mode: str) -> None:
    packed = pack(
        random_weights(SHAPE), mode=mode, bits=8 if mode == "mxfp8" else 4, group_size=16 if mode == "nvfp4" else 32
    )
    layers = packings({"quantization": {"mode": mode}}, packed)
    assert unpacked_bytes(packed, layers, mx.float32) == PLAIN_BYTES


def test_free_memory_is_what_linux_can_free_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   24 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_memory() == 24 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4096\n")
    assert memory.available_memory() == 24 * 1024
    (tmp_path / "memory.max").write_text("10240\n")
    assert memory.available_memory() == 6144


def test_a_containers_file_cache_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Weights that were just read are in the page cache, which the kernel counts as used by the container.
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("10000\n")
    (tmp_path / "memory.current").write_text("9000\n")
    (tmp_path / "memory.stat").write_text(
        "anon 500\nfile 8000\ninactive_file 7000\nactive_file 1000\nslab_reclaimable 300\n"
    )
    assert memory.available_memory() == 1000 + 7000 + 300
    (tmp_path / "memory.stat").write_text("anon 500\n")
    assert memory.available_memory() == 1000


def test_without_meminfo_the_total_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    total = memory.available_memory()
    assert total is not None
    assert total > 2**28
