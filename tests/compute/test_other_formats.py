"""AWQ, GPTQ, compressed-tensors and other foreign formats are refused by name, with what to take instead."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.tools.convert import convert
from tests.support.checkpoints import NANO_ENTRIES, PACKABLE, Shape, Weights, random_weights, write_checkpoint
from tests.support.forward import pooled_vectors

LAYER = "layers.0.mlp.down_proj"
AWQ_PARTS = ("qweight", "qzeros", "scales")
GPTQ_PARTS = ("qweight", "qzeros", "scales", "g_idx")
COMPRESSED_PARTS = ("weight_packed", "weight_scale", "weight_shape")
TRANSFORM: dict[str, Any] = {"config_groups": {"u": {"type": "hadamard", "apply": [{"location": "input"}]}}}
COMPRESSED: dict[str, Any] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}

FORMATS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, AWQ_PARTS),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False}, GPTQ_PARTS),
    "compressed-tensors": (COMPRESSED, COMPRESSED_PARTS),
    "compressed-tensors with a transform": (COMPRESSED | {"transform_config": TRANSFORM}, COMPRESSED_PARTS),
    "fp8": ({"quant_method": "fp8"}, ("weight", "weight_scale_inv")),
    "bitsandbytes": ({"quant_method": "bitsandbytes"}, ("weight",)),
}
INSTEAD = r"take a conversion to MLX \(mlx-community .*mlx-qwen convert"


def packed_in(parts: tuple[str, ...], shape: Shape = PACKABLE) -> Weights:
    """Return weights whose layer ``LAYER`` has the given tensors instead of its plain one."""
    weights = random_weights(shape)
    del weights[f"{LAYER}.weight"]
    return weights | {f"{LAYER}.{part}": np.ones((8, 8), np.float32) for part in parts}


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize(("entry", "parts"), FORMATS.values(), ids=FORMATS.keys())
def test_a_format_named_in_the_configuration_is_refused_by_that_name(
    entry: dict[str, Any], parts: tuple[str, ...], prefix: str, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, packed_in(parts), PACKABLE.config(quantization_config=entry), prefix=prefix)
    method = entry["quant_method"]
    with pytest.raises(
        ModelLoadError, match=rf"^{tmp_path}: quantization_config says quant_method '{method}', .*{INSTEAD}"
    ):
        pooled_vectors(tmp_path)


@pytest.mark.parametrize("entry", [None, {"bits": 4, "group_size": 64}], ids=["no entry", "MLX's entry"])
@pytest.mark.parametrize("parts", [AWQ_PARTS, GPTQ_PARTS, COMPRESSED_PARTS], ids=["awq", "gptq", "compressed-tensors"])
def test_a_format_that_only_the_tensors_show_is_refused_by_the_tensor(
    parts: tuple[str, ...], entry: dict[str, Any] | None, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, packed_in(parts), PACKABLE.config(quantization=entry))
    expected = rf"^{tmp_path}: the tensor {LAYER}\.\w+ belongs to an AWQ, GPTQ, compressed-tensors or FP8 .*{INSTEAD}"
    with pytest.raises(ModelLoadError, match=expected):
        pooled_vectors(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An AWQ checkpoint with a tokenizer that an engine can open."""
    shape = replace(PACKABLE, vocab_size=NANO_ENTRIES)
    entry, parts = FORMATS["awq"]
    return write_checkpoint(tmp_path / "awq", packed_in(parts, shape), shape.config(quantization_config=entry))


def test_the_engine_refuses_it(source: Path) -> None:
    with EmbeddingEngine(str(source)) as engine, pytest.raises(ModelLoadError, match="quant_method 'awq'"):
        engine.embed_documents(["the tide"])


def test_convert_refuses_it_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm", reason="conversion needs it")
    with pytest.raises(ModelLoadError, match="quant_method 'awq'"):
        convert(str(source), tmp_path / "plain", dtype="float32", report=False)
    assert not (tmp_path / "plain").exists()


def test_a_null_entry_is_ignored(tmp_path: Path) -> None:
    weights = random_weights(PACKABLE)
    plain = write_checkpoint(tmp_path / "plain", weights, PACKABLE.config())
    null = write_checkpoint(tmp_path / "null", weights, PACKABLE.config() | {"quantization_config": None})
    np.testing.assert_array_equal(pooled_vectors(plain), pooled_vectors(null))
