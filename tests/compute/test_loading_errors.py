"""A folder that is not a complete, well-formed Qwen3 model is refused, and the message says what is wrong."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.compute import loading
from mlx_qwen_embeddings.errors import ModelLoadError
from tests.support.checkpoints import NANO_ENTRIES, WITH_TOKENIZER, Shape, random_weights, save, write_checkpoint
from tests.support.forward import pooled_vectors

SHAPE = Shape()
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write(folder: Path, *, shards: int = 1, changes: dict[str, Any] | None = None, **config: Any) -> Path:
    """Write a checkpoint. In ``changes``, an array replaces or adds a weight, and None removes it."""
    weights = {name: value for name, value in (random_weights(SHAPE) | (changes or {})).items() if value is not None}
    return write_checkpoint(folder, weights, SHAPE.config(**config), shards=shards)


def rename_in_index(folder: Path, name: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {key: name if file == SECOND else file for key, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


NORM = "layers.1.self_attn.k_norm.weight"
WEIGHTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({NORM: None}, rf"they lack {NORM}"),
    "extra": ({"layers.2.mlp.up_proj.weight": np.ones((112, 48))}, r"unknown layers\.2\.mlp\.up_proj\.weight"),
    "bias": ({"layers.0.self_attn.q_proj.bias": np.ones(80)}, r"unknown layers\.0\.self_attn\.q_proj\.bias"),
    "shape": ({NORM: np.ones(21)}, rf"{NORM} \(\(21,\), not \(20,\)\)"),
    "many": ({f"{n}.weight": np.ones(1) for n in "abcde"}, r"unknown a\.weight, b\.weight, c\.weight and 2 more"),
    "another model": ({NORM: None, "bert.pooler.weight": np.ones(3)}, rf"lack {NORM}; they hold the unknown bert\.pooler"),
}


@pytest.mark.parametrize(("changes", "message"), WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weights_must_fit_exactly(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=rf"^{tmp_path}: .*{message}.*: take both from one download$"):
        pooled_vectors(write(tmp_path, changes=changes))


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no rope_theta": ({"rope_theta": None}, "lacks rope_theta: copy the original model's config.json"),
    "no head_dim": ({"head_dim": None}, "lacks head_dim: copy the original model's config.json"),
    "unknown type": ({"model_type": "gpt2"}, "'gpt2', which is not served; served are: .*qwen3"),
    "no type": ({"model_type": None}, "type None"),
    "scaled rope": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "rope scaling 'yarn', which is not supported: take the scaling out of it",
    ),
    "old name of scaling": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
    "nested scaling": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope scaling 'yarn'"),
    "sliding window": (
        {"use_sliding_window": True, "sliding_window": 128},
        "sliding-window .*: use_sliding_window must be false",
    ),
    "activation": ({"hidden_act": "gelu"}, "'gelu', but .* copy the original model's config.json"),
}


@pytest.mark.parametrize(("config", "message"), CONFIGS.values(), ids=CONFIGS.keys())
def test_an_unsupported_configuration_is_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=rf"^{tmp_path}.*{message}"):
        pooled_vectors(write(tmp_path, **config))


def pickle_only(folder: Path) -> None:
    write(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"never": "read"}))


def no_weights(folder: Path) -> None:
    write(folder)
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    (write(folder, shards=2) / SECOND).unlink()


def absolute_shard(folder: Path) -> None:
    write(folder, shards=2)
    rename_in_index(folder, str(folder / SECOND))


def truncated_shard(folder: Path) -> None:
    cut(write(folder, shards=2) / SECOND, 4000)


def truncated_header(folder: Path) -> None:
    cut(write(folder) / "model.safetensors", 100)


def empty_weights(folder: Path) -> None:
    cut(write(folder) / "model.safetensors", 0)


def web_page_for_weights(folder: Path) -> None:
    (write(folder) / "model.safetensors").write_text("<!doctype html><title>404</title>" * 9)


def large_file_pointer(folder: Path) -> None:
    (write(folder) / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def broken_index(folder: Path) -> None:
    (write(folder, shards=2) / INDEX).write_text("{")


def broken_config(folder: Path) -> None:
    (write(folder) / "config.json").write_text("{'model_type': 'qwen3'}")


def no_config(folder: Path) -> None:
    save(folder / "model.safetensors", random_weights(SHAPE))


FILES: list[tuple[Callable[[Path], None], str]] = [
    (pickle_only, r"pytorch_model\.bin.*can run code.*safe_serialization=True"),
    (no_weights, r"has no \*\.safetensors: .*download the model again"),
    (missing_shard, rf"lacks {SECOND}, which {INDEX} names: download the model again"),
    (absolute_shard, "outside the model's folder: refused; download the model again"),
    (truncated_shard, rf"{SECOND} is cut short: .*download it again"),
    (truncated_header, "no whole safetensors file.*download it again"),
    (empty_weights, "no whole safetensors file"),
    (web_page_for_weights, "no whole safetensors file"),
    (large_file_pointer, "no whole safetensors file"),
    (broken_index, rf"{INDEX} cannot be read as JSON"),
    (broken_config, r"config\.json cannot be read as JSON"),
    (no_config, r"has no config\.json, so it is not a model folder"),
]


@pytest.mark.parametrize(("spoil", "message"), FILES, ids=[spoil.__name__ for spoil, _ in FILES])
def test_an_incomplete_folder_is_refused(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(ModelLoadError, match=message) as caught:
        pooled_vectors(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_index_cannot_reach_outside_the_folder(tmp_path: Path) -> None:
    inner = write(tmp_path / "inner", shards=2)
    (inner / SECOND).rename(tmp_path / SECOND)  # so that it would load
    rename_in_index(inner, f"../{SECOND}")
    with pytest.raises(ModelLoadError, match="outside the model's folder: refused"):
        pooled_vectors(inner)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def larger_tokenizer(folder: Path) -> None:
    write(folder)


def lost_end_of_file(folder: Path) -> None:
    cut(folder / "model.safetensors", 4000)


def lost_weight(folder: Path) -> None:
    weights = random_weights(WITH_TOKENIZER)
    del weights[NORM]
    save(folder / "model.safetensors", weights)


ENGINE: list[tuple[Callable[[Path], Any], str]] = [
    (no_tokenizer, r"has no tokenizer\.json: copy it"),
    (broken_tokenizer, r"tokenizer\.json cannot be read as a tokenizer"),
    (larger_tokenizer, f"the tokenizer has {NANO_ENTRIES} ids, the model only 1024 embeddings: .*copy tokenizer.json from"),
    (lost_end_of_file, "is cut short: .*download it again"),
    (lost_weight, f"they lack {NORM}"),
]


@pytest.mark.parametrize(("spoil", "message"), ENGINE, ids=[spoil.__name__ for spoil, _ in ENGINE])
def test_the_engine_gives_every_caller_the_reason(spoil: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    spoil(write_checkpoint(tmp_path, random_weights(WITH_TOKENIZER), WITH_TOKENIZER.config()))
    with EmbeddingEngine(str(tmp_path)) as engine:
        for _ in range(2):
            with pytest.raises(ModelLoadError, match=rf"^{tmp_path}.*{message}"):
                engine.embed_documents(["the tide"])


@pytest.mark.parametrize("step", ["fill", "eval"])
def test_a_failed_allocation_is_a_loading_error(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        message = "[malloc] Unable to allocate 123 bytes."
        raise RuntimeError(message)

    write(tmp_path)
    monkeypatch.setattr(loading if step == "fill" else mx, step, fails)
    with pytest.raises(ModelLoadError, match=rf"^{tmp_path}: MLX cannot load it \(.*123 bytes\.\): .* free .*memory"):
        pooled_vectors(tmp_path)
