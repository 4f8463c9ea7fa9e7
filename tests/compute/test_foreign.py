"""Checkpoints packed as AutoAWQ, GPTQ and compressed-tensors pack them give the vectors of their dequantised weights."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.compute.mlx.backend import Backend
from mlx_qwen_embeddings.errors import MissingExtraError, ModelLoadError
from mlx_qwen_embeddings.tools.convert.conversion import convert
from tests.support.checkpoints import NANO_ENTRIES, Shape, Weights, random_weights, write_checkpoint
from tests.support.forward import CPU, PACKED, pooled_vectors

SHAPE = Shape(hidden_size=128, intermediate_size=192, head_dim=32, attention_bias=True)
GROUP = 64
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)

Array = NDArray[Any]


def quantised(weight: Array, bits: int, *, symmetric: bool = False) -> tuple[Array, Array, Array]:
    """Round to whole numbers in groups of neighbours: numbers (out, in), scales and zeros (out, groups)."""
    groups = weight.reshape(len(weight), -1, GROUP)
    top = 2**bits - 1
    if symmetric:
        scales = (2 * np.abs(groups).max(-1) / top).astype(np.float16)
        zeros = np.full(scales.shape, 2 ** (bits - 1))
    else:
        scales = ((groups.max(-1) - groups.min(-1)) / top).astype(np.float16)
        zeros = np.clip(np.rint(-groups.min(-1) / scales), 1, top).astype(int)
    numbers = np.rint(groups / scales[..., None].astype(np.float32)) + zeros[..., None]
    return np.clip(numbers, 0, top).astype(np.uint32).reshape(weight.shape), scales, zeros


def plain(numbers: Array, scales: Array, zeros: Array) -> Array:
    groups = numbers.reshape(len(numbers), -1, GROUP).astype(np.float32) - zeros[..., None]
    return (groups * scales[..., None].astype(np.float32)).reshape(numbers.shape)


def packed(numbers: Array, bits: int = 4, order: tuple[int, ...] | None = None) -> Array:
    """Pack the last axis into words, from the lowest bits up."""
    words = numbers.astype(np.uint32).reshape(*numbers.shape[:-1], -1, 32 // bits)
    if order:
        words = words[..., list(order)]
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(words << shifts, axis=-1).view(np.int32)


Packer = Callable[[str, Array], tuple[dict[str, Array], Array]]


def awq(layer: str, weight: Array) -> tuple[dict[str, Array], Array]:
    numbers, scales, zeros = quantised(weight, 4)
    parts = {
        "qweight": packed(numbers.T, order=AWQ_ORDER),
        "qzeros": packed(zeros.T, order=AWQ_ORDER),
        "scales": scales.T,
    }
    return {f"{layer}.{name}": part for name, part in parts.items()}, plain(numbers, scales, zeros)


def gptq(bits: int = 4, *, version: int = 1, act_order: bool = False) -> Packer:
    def pack(layer: str, weight: Array) -> tuple[dict[str, Array], Array]:
        numbers, scales, zeros = quantised(weight, bits)
        groups = np.arange(weight.shape[1], dtype=np.int32) // GROUP
        parts = {
            "qweight": packed(numbers, bits).T,
            "qzeros": packed(zeros.T - (version == 1), bits),
            "scales": scales.T,
            "g_idx": groups[::-1] if act_order else groups,
        }
        return {f"{layer}.{name}": part for name, part in parts.items()}, plain(numbers, scales, zeros)

    return pack


def pack_quantized(bits: int = 4, *, symmetric: bool = True) -> Packer:
    def pack(layer: str, weight: Array) -> tuple[dict[str, Array], Array]:
        numbers, scales, zeros = quantised(weight, bits, symmetric=symmetric)
        parts = {
            "weight_packed": packed(numbers, bits),
            "weight_scale": scales,
            "weight_shape": np.array(weight.shape, dtype=np.int64),
        }
        if not symmetric:
            parts["weight_zero_point"] = packed(zeros.T, bits).T
        return {f"{layer}.{name}": part for name, part in parts.items()}, plain(numbers, scales, zeros)

    return pack


def mxfp4(layer: str, weight: Array) -> tuple[dict[str, Array], Array]:
    groups = weight.reshape(len(weight), -1, 32)
    exponents = np.ceil(np.log2(np.abs(groups).max(-1) / 6))
    scaled = groups / np.exp2(exponents)[..., None]
    codes = np.abs(np.abs(scaled)[..., None] - E2M1).argmin(-1)
    values = np.sign(scaled) * E2M1[codes] * np.exp2(exponents)[..., None]
    halves = (codes | (np.signbit(scaled) << 3)).reshape(len(weight), -1, 2).astype(np.uint8)
    parts = {"weight_packed": halves[..., 0] | halves[..., 1] << 4, "weight_scale": (exponents + 127).astype(np.uint8)}
    return {f"{layer}.{name}": part for name, part in parts.items()}, values.reshape(weight.shape).astype(np.float32)


def write(
    folder: Path, weights: Weights, packer: Packer, said: Mapping[str, Any], only: str = "_proj"
) -> tuple[Path, Path]:
    """Write the packed checkpoint and its dequantised twin."""
    foreign: dict[str, Array] = {}
    twin: dict[str, Array] = {}
    for name, value in weights.items():
        if only in name and name.endswith(".weight"):
            parts, twin[name] = packer(name.removesuffix(".weight"), value)
            foreign |= parts
        else:
            foreign[name] = twin[name] = value
    config = SHAPE.config(quantization_config=dict(said))
    prefixed = {name: np.ascontiguousarray(value) for name, value in foreign.items()}
    return (
        write_checkpoint(folder / "foreign", prefixed, config, prefix="model."),
        write_checkpoint(folder / "twin", twin, SHAPE.config()),
    )


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(SHAPE)


AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}
COMPRESSED: dict[str, Any] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}

READ = {
    "awq": (awq, AWQ),
    "awq under the name of gptq": (awq, GPTQ),
    "gptq": (gptq(), GPTQ),
    "gptq of 8 bits": (gptq(8), GPTQ | {"bits": 8}),
    "gptq v2": (gptq(version=2), GPTQ | {"checkpoint_format": "gptq_v2"}),
    "compressed": (pack_quantized(), COMPRESSED),
    "compressed of 8 bits": (pack_quantized(8), COMPRESSED),
    "compressed with zeros": (pack_quantized(symmetric=False), COMPRESSED),
    "compressed mxfp4": (mxfp4, COMPRESSED | {"format": "mxfp4-pack-quantized"}),
}


@pytest.mark.parametrize("backend", [CPU, PACKED], ids=["unpacked", "packed"])
@pytest.mark.parametrize(("packer", "said"), READ.values(), ids=READ.keys())
def test_a_foreign_checkpoint_gives_the_vectors_of_its_dequantised_weights(
    packer: Packer, said: dict[str, Any], backend: Backend, weights: Weights, tmp_path: Path
) -> None:
    foreign, twin = write(tmp_path, weights, packer, said)
    np.testing.assert_allclose(pooled_vectors(foreign, backend=backend), pooled_vectors(twin), atol=1e-5)


def test_layers_that_were_left_out_stay_plain(weights: Weights, tmp_path: Path) -> None:
    foreign, twin = write(tmp_path, weights, gptq(), GPTQ, only="mlp.")
    np.testing.assert_allclose(pooled_vectors(foreign), pooled_vectors(twin), atol=1e-5)


def short_groups(layer: str, weight: Array) -> tuple[dict[str, Array], Array]:
    parts, twin = gptq()(layer, weight)
    return parts | {f"{layer}.scales": np.repeat(parts[f"{layer}.scales"], 4, axis=0)}, twin


def changed(packer: Packer, part: str, value: Array | None) -> Packer:
    def pack(layer: str, weight: Array) -> tuple[dict[str, Array], Array]:
        parts, twin = packer(layer, weight)
        parts.pop(f"{layer}.{part}", None)
        return parts | ({} if value is None else {f"{layer}.{part}": value}), twin

    return pack


REFUSED = {
    "fp8": (gptq(), {"quant_method": "fp8"}, "quantised with 'fp8', which is not read"),
    "bitsandbytes": (gptq(), {"quant_method": "bitsandbytes"}, "of other formats awq, gptq, compressed-tensors are read"),
    "act-order": (gptq(act_order=True), GPTQ, r"layer \S+ is quantised with 'gptq' .*desc_act"),
    "awq with g_idx": (changed(awq, "g_idx", np.zeros(1, np.int32)), AWQ, "with 'awq' in a way that is not read .*g_idx"),
    "awq gemv": (changed(awq, "qweight", np.zeros((48, 3), np.int32)), AWQ, r"qweight of shape \(48, 3\)"),
    "short groups": (short_groups, GPTQ, r"groups for \d+ inputs; MLX has groups of 32, 64, 128"),
    "three bits": (gptq(), GPTQ | {"bits": 3}, "it has 3 bits; read are 2, 4, 8"),
    "no inputs": (changed(pack_quantized(), "weight_shape", np.zeros(2, np.int64)), COMPRESSED, "zero"),
    "no scales": (changed(pack_quantized(), "weight_scale", np.zeros(1, np.float16)), COMPRESSED, "index out of range"),
    "no zeros": (changed(gptq(), "qzeros", None), GPTQ, "'qzeros'"),
    "nvfp4": (pack_quantized(), COMPRESSED | {"format": "nvfp4-pack-quantized"}, "its format is 'nvfp4-pack-quantized'"),
    "float": (pack_quantized(), COMPRESSED | {"format": "float-quantized"}, "its format is 'float-quantized'"),
    "actorder": (changed(pack_quantized(), "weight_g_idx", np.zeros(1, np.int32)), COMPRESSED, "actorder"),
}


@pytest.mark.parametrize(("packer", "said", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_form_in_mlx_is_refused_by_name(
    packer: Packer, said: dict[str, Any], expected: str, weights: Weights, tmp_path: Path
) -> None:
    foreign, _ = write(tmp_path, weights, packer, said)
    with pytest.raises(ModelLoadError, match=rf"^{foreign}: .*{expected}.*the plain model, or one in MLX's form"):
        pooled_vectors(foreign)


def test_awq_without_mlx_lm_says_what_to_install(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx_lm.utils", None)
    foreign, _ = write(tmp_path, weights, awq, AWQ)
    with pytest.raises(MissingExtraError, match=r'mlx_lm.*pip install "mlx-qwen-embeddings\[convert\]"'):
        pooled_vectors(foreign)


def test_an_mlx_lm_that_lost_its_reader_is_named(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("mlx_lm.utils._transform_awq_weights")
    foreign, _ = write(tmp_path, weights, awq, AWQ)
    with pytest.raises(ModelLoadError, match="this version of mlx-lm cannot read AWQ"):
        pooled_vectors(foreign)


def with_tokenizer(folder: Path, packer: Packer, said: Mapping[str, Any]) -> Path:
    """Write a packed checkpoint that an engine can open."""
    shape = Shape(hidden_size=128, intermediate_size=192, head_dim=32, vocab_size=NANO_ENTRIES)
    parts: dict[str, Array] = {}
    for name, value in random_weights(shape).items():
        parts |= packer(name.removesuffix(".weight"), value)[0] if "_proj" in name else {name: value}
    config = shape.config(quantization_config=dict(said))
    return write_checkpoint(folder, {name: np.ascontiguousarray(part) for name, part in parts.items()}, config)


@pytest.mark.parametrize(
    ("packer", "said"),
    [(awq, AWQ), (gptq(), GPTQ), (pack_quantized(), COMPRESSED)],
    ids=["awq", "gptq", "compressed-tensors"],
)
def test_convert_gives_it_mlxs_form_for_good(packer: Packer, said: dict[str, Any], tmp_path: Path) -> None:
    foreign = with_tokenizer(tmp_path / "foreign", packer, said)
    convert(str(foreign), tmp_path / "plain", dtype="float32", report=False)
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text("utf-8"))
    with EmbeddingEngine(str(foreign)) as source, EmbeddingEngine(str(tmp_path / "plain")) as plain:
        np.testing.assert_allclose(plain.embed_documents(["the tide"]), source.embed_documents(["the tide"]), atol=1e-5)
    assert convert(str(foreign), tmp_path / "packed", bits=8, report=False).repacked


def test_an_engine_on_awq_ends_its_process_cleanly(tmp_path: Path) -> None:
    """Importing mlx-lm on the worker's thread makes a stream there."""
    folder = with_tokenizer(tmp_path, awq, AWQ)
    program = """
import sys
from mlx_qwen_embeddings import EmbeddingEngine
with EmbeddingEngine(sys.argv[1]) as engine:
    print(engine.embed_documents(["the tide"]).shape)
"""
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "(1, 128)\n"), done.stderr


def test_nothing_else_is_touched(weights: Weights, tmp_path: Path) -> None:
    arrays = {name: mx.array(value) for name, value in weights.items()}
    folder = write_checkpoint(tmp_path / "plain", arrays, SHAPE.config())
    said = write_checkpoint(tmp_path / "null", arrays, SHAPE.config() | {"quantization_config": None})
    np.testing.assert_array_equal(pooled_vectors(folder), pooled_vectors(said))
