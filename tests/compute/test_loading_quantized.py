"""MLX-quantised checkpoints against weights unpacked in numpy according to each format's definition."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings.errors import ModelLoadError
from tests.support.checkpoints import PACKABLE, Shape, Weights, pack, random_weights, write_checkpoint
from tests.support.forward import CPU, PACKED, ROWS, pooled_vectors
from tests.support.references import pooled, qwen3, unpack

AFFINE_4: dict[str, Any] = {"mode": "affine", "bits": 4, "group_size": 64}
AFFINE_8: dict[str, Any] = {"mode": "affine", "bits": 8, "group_size": 32}
PACKINGS: dict[str, dict[str, Any]] = {
    "affine 4 bits": AFFINE_4,
    "affine 8 bits": AFFINE_8,
    "mxfp4": {"mode": "mxfp4", "bits": 4, "group_size": 32},
    "mxfp8": {"mode": "mxfp8", "bits": 8, "group_size": 32},
    "nvfp4": {"mode": "nvfp4", "bits": 4, "group_size": 16},
}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(PACKABLE)


def unpacked(packed: dict[str, mx.array], how: dict[str, Any], single: dict[str, dict[str, Any]] | None = None) -> Weights:
    """Unpack weights. ``single`` says how some layers are packed that differ from ``how``."""
    arrays = {
        name: np.array(value.astype(mx.float32) if value.dtype == mx.bfloat16 else value) for name, value in packed.items()
    }
    plain: Weights = {}
    for name, value in arrays.items():
        layer = name.removesuffix(".weight")
        said = (single or {}).get(layer, how)
        if f"{layer}.scales" in arrays and name.endswith(".weight"):
            scales, biases = arrays[f"{layer}.scales"], arrays.get(f"{layer}.biases")
            plain[name] = unpack(value, scales, biases, mode=said["mode"], bits=said["bits"]).astype(np.float32)
        elif not name.endswith((".scales", ".biases")):
            plain[name] = value
    return plain


def reference_vectors(plain: Weights, shape: Shape = PACKABLE) -> list[Any]:
    return [pooled(qwen3(plain, shape.config(), row), "last") for row in ROWS]


@pytest.mark.parametrize("form", ["unpacked", "packed"])
@pytest.mark.parametrize("how", PACKINGS.values(), ids=PACKINGS.keys())
def test_quantised_weights_equal_those_of_the_definition(
    how: dict[str, Any], form: str, weights: Weights, tmp_path: Path
) -> None:
    packed = pack(weights, **how)
    write_checkpoint(tmp_path, packed, PACKABLE.config(quantization=how), prefix="model.")
    vectors = pooled_vectors(tmp_path, backend=PACKED if form == "packed" else CPU)
    np.testing.assert_allclose(vectors, reference_vectors(unpacked(packed, how)), atol=5e-6)
    assert np.abs(vectors - reference_vectors(weights)).max() > 1e-3  # quantising changes the vectors


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_every_width_and_group_of_the_affine_mode(bits: int, group_size: int, tmp_path: Path) -> None:
    shape = Shape(hidden_size=128, intermediate_size=256, head_dim=32)
    how = {"mode": "affine", "bits": bits, "group_size": group_size}
    packed = pack(random_weights(shape), mode="affine", bits=bits, group_size=group_size)
    write_checkpoint(tmp_path, packed, shape.config(quantization=how))
    expected = reference_vectors(unpacked(packed, how), shape)
    np.testing.assert_allclose(pooled_vectors(tmp_path), expected, atol=5e-6)
    np.testing.assert_allclose(pooled_vectors(tmp_path, backend=PACKED), expected, atol=5e-6)


def test_bfloat16_scales_are_multiplied_in_float32(weights: Weights, tmp_path: Path) -> None:
    # mlx-community's 4-bit conversions have such scales. Products in bfloat16 would be off by up to 0.4 %.
    packed = pack(weights, **AFFINE_4, scales=mx.bfloat16)
    write_checkpoint(tmp_path, packed, PACKABLE.config(quantization=AFFINE_4))
    np.testing.assert_allclose(pooled_vectors(tmp_path), reference_vectors(unpacked(packed, AFFINE_4)), atol=5e-6)


@pytest.mark.parametrize("backend", [{}, {"backend": PACKED}], ids=["unpacked", "packed"])
def test_layers_may_differ(backend: dict[str, Any], weights: Weights, tmp_path: Path) -> None:
    packed = pack(pack(weights, **AFFINE_8, only="down_proj"), **AFFINE_4, only="q_proj")
    layers = [f"layers.{layer}.mlp.down_proj" for layer in range(PACKABLE.num_hidden_layers)]
    said = AFFINE_4 | {f"model.{layer}": AFFINE_8 for layer in layers} | {"model.layers.0.self_attn.k_proj": False}
    write_checkpoint(tmp_path, packed, PACKABLE.config(quantization=said), prefix="model.")
    plain = unpacked(packed, AFFINE_4, dict.fromkeys(layers, AFFINE_8))
    np.testing.assert_allclose(pooled_vectors(tmp_path, **backend), reference_vectors(plain), atol=5e-6)


def test_a_layers_own_entry_inherits_nothing(weights: Weights, tmp_path: Path) -> None:
    # As in mlx-lm: without a mode, a layer's own entry means affine, whatever the other layers have.
    mxfp4 = PACKINGS["mxfp4"]
    packed = pack(pack(weights, **AFFINE_8, only="embed_tokens"), **mxfp4)
    said = mxfp4 | {"embed_tokens": {"bits": 8, "group_size": 32}}
    write_checkpoint(tmp_path, packed, PACKABLE.config(quantization=said))
    plain = unpacked(packed, mxfp4, {"embed_tokens": AFFINE_8})
    np.testing.assert_allclose(pooled_vectors(tmp_path), reference_vectors(plain), atol=5e-6)


def test_a_packed_head_is_ignored(weights: Weights, tmp_path: Path) -> None:
    packed = pack(weights | {"lm_head.weight": weights["embed_tokens.weight"]}, **AFFINE_4)
    write_checkpoint(
        tmp_path, packed, PACKABLE.config(quantization=AFFINE_4, quantization_config=AFFINE_4), prefix="model."
    )
    np.testing.assert_allclose(pooled_vectors(tmp_path), reference_vectors(unpacked(packed, AFFINE_4)), atol=5e-6)


WRONG: dict[str, tuple[dict[str, Any] | None, str]] = {
    "nothing said": (None, "config.json has no 'quantization'"),
    "other bits": (AFFINE_8, "config.json"),
    "other group": (AFFINE_4 | {"group_size": 32}, "config.json"),
    "other mode": (PACKINGS["mxfp4"], "config.json"),
    "unknown mode": (AFFINE_4 | {"mode": "ternary"}, "config.json"),
}


@pytest.mark.parametrize("backend", [{}, {"backend": PACKED}], ids=["unpacked", "packed"])
@pytest.mark.parametrize(("said", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_configuration_that_does_not_fit_is_refused(
    said: dict[str, Any] | None, message: str, backend: dict[str, Any], weights: Weights, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, pack(weights, **AFFINE_4), PACKABLE.config(quantization=said))
    with pytest.raises(ModelLoadError, match=message):
        pooled_vectors(tmp_path, **backend)


@pytest.mark.parametrize("lost", ["weight", "scales", "biases"])
def test_a_missing_part_of_a_packed_layer_is_named(lost: str, weights: Weights, tmp_path: Path) -> None:
    packed = pack(weights, **AFFINE_4)
    del packed[f"layers.1.mlp.up_proj.{lost}"]
    write_checkpoint(tmp_path, packed, PACKABLE.config(quantization=AFFINE_4))
    with pytest.raises(ModelLoadError, match=r"layers\.1\.mlp\.up_proj"):
        pooled_vectors(tmp_path)
