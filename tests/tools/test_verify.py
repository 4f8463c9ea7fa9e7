"""``verify`` passes nano, and names what is wrong with broken copies of it, with the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen_embeddings import VerifyReport, verify
from mlx_qwen_embeddings.cache.memory import CachedVector, MemoryCache
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute import encoder
from mlx_qwen_embeddings.compute.batching import pad
from mlx_qwen_embeddings.engine.call import postprocess
from mlx_qwen_embeddings.errors import UnknownModelError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tools.verify.published import PublishedModel, find_published, published_models
from tests.support.checkpoints import NANO_END, save

Break = Callable[[Path], None]

ALL = [
    "end token",
    "end token, cut",
    "pooling",
    "prompts",
    "normalisation",
    "weights",
    "dtype",
    "loads",
    "finite values",
    "unit norms",
    "batch = single",
    "cached = computed",
    "dimensions",
    "published scores",
    "published document",
    "published query",
]
PUBLISHED = {name for name in ALL if name.startswith("published")}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(change(data) or data), "utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, mx.array]], None]) -> None:
    path = folder / "model.safetensors"
    stored: Any = mx.load(str(path))
    weights = {name: mx.array(np.array(value)) for name, value in stored.items()}
    change(weights)
    save(path, weights)


def failed(report: VerifyReport) -> dict[str, str]:
    """Return the remedy of every failed check."""
    return {row.name: row.remedy for row in report.failures}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(NANO_FOLDER, tmp_path / "copy"))


def no_end_token(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda data: data.update(post_processor=None))


def wrong_end_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    names = {token["content"]: token["id"] for token in json.loads(path.read_text("utf-8"))["added_tokens"]}

    def change(data: Any) -> None:
        template = data["post_processor"]
        template["single"][1]["SpecialToken"]["id"] = "<|im_end|>"
        template["special_tokens"]["<|im_end|>"] = {
            "id": "<|im_end|>",
            "ids": [names["<|im_end|>"]],
            "tokens": ["<|im_end|>"],
        }

    edit(path, change)


def mean_pooling(folder: Path) -> None:
    flags = {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}
    edit(folder / "1_Pooling" / "config.json", lambda data: data.update(flags))


def prompts_lost(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", lambda data: data.update(prompts={}))


def unknown_prompts_lost(folder: Path) -> None:
    prompts_lost(folder)
    other_weights(folder)


def space_after_prompt(folder: Path) -> None:
    other_weights(folder)
    prompts = {"query": "Instruct: Find it\nQuery: ", "document": ""}
    edit(folder / "config_sentence_transformers.json", lambda data: data.update(prompts=prompts))


def not_normalised(folder: Path) -> None:
    edit(folder / "modules.json", lambda data: data[:-1])


def other_weights(folder: Path) -> None:
    def change(weights: dict[str, mx.array]) -> None:
        weights["norm.weight"] = weights["norm.weight"] * 1.01

    edit_weights(folder, change)


def nan_weight(folder: Path) -> None:
    def change(weights: dict[str, mx.array]) -> None:
        weights["layers.2.input_layernorm.weight"][7] = float("nan")

    edit_weights(folder, change)


def unused_nan(folder: Path) -> None:
    """Break the embedding of a token that no probe has, so that only reading the file finds it."""

    def change(weights: dict[str, mx.array]) -> None:
        weights["embed_tokens.biases"][16_380] = float("nan")

    edit_weights(folder, change)


def float16(value: float) -> Break:
    def write(folder: Path) -> None:
        def change(weights: dict[str, mx.array]) -> None:
            half = weights["norm.weight"].astype(mx.float16)
            half[3] = value
            weights["norm.weight"] = half

        edit_weights(folder, change)

    return write


def zeros(folder: Path) -> None:
    def change(weights: dict[str, mx.array]) -> None:
        weights["norm.weight"] = mx.zeros_like(weights["norm.weight"])

    edit_weights(folder, change)


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def test_nano_passes_every_check() -> None:
    report = verify("nano")
    assert failed(report) == {}
    assert report.ok
    assert report.known == "nano"
    assert [row.name for row in report.rows] == ALL


@pytest.mark.parametrize(
    ("break_it", "expected", "remedy"),
    [
        (no_end_token, {"end token", "end token, cut"}, "tokenizer.json"),
        # The engine appends the right token behind the wrong one. That helps, but the vectors differ.
        (wrong_end_token, {"end token", "end token, cut", *PUBLISHED}, "tokenizer.json"),
        (mean_pooling, {"pooling", *PUBLISHED}, "1_Pooling"),
        (prompts_lost, {"prompts"}, "config_sentence_transformers.json"),
        (unknown_prompts_lost, {"prompts"}, "config_sentence_transformers.json"),
        (space_after_prompt, {"prompts"}, "config_sentence_transformers.json"),
        (not_normalised, {"normalisation"}, "modules.json"),
        (unused_nan, {"weights"}, "download the weights"),
        (nan_weight, {"weights", "finite values"}, "download the weights"),
        (float16(float("inf")), {"dtype", "finite values"}, "bfloat16 or float32"),
        (float16(65_504.0), {"dtype"}, "bfloat16 or float32"),
        (zeros, {"unit norms"}, "norm"),
        (cut_short, {"loads"}, "download it again"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_copy_is_named_with_its_remedy(copy: Path, break_it: Break, expected: set[str], remedy: str) -> None:
    break_it(copy)
    report = verify(str(copy))
    found = failed(report)
    if break_it is mean_pooling:
        assert report.known == "nano"  # the weights are nano's, so its values are expected
    assert set(found) == expected
    assert all(found.values())
    assert remedy in next(iter(found.values()))
    if "loads" in expected:
        assert [row.name for row in report.rows][-1] == "loads"


def test_the_end_token_is_checked_before_the_engine_repairs_it(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    no_end_token(copy)
    report = verify(str(copy))
    row = report.rows[0]
    assert (row.expected, row.found) == (f"<|endoftext|> ({NANO_END})", "no end token")
    assert {row.name for row in report.rows if row.ok} >= PUBLISHED  # the engine appends it, so the vectors are right
    assert "it is appended" in caplog.text


@pytest.mark.parametrize(
    ("missing", "words"),
    [("config.json", "config.json"), ("tokenizer.json", "tokenizer.json"), ("model.safetensors", "safetensors")],
)
def test_a_model_that_does_not_load_is_a_failed_check(copy: Path, missing: str, words: str) -> None:
    (copy / missing).unlink()
    rows = {row.name: row for row in verify(str(copy)).rows}
    assert not rows["loads"].ok
    assert words in rows["loads"].remedy
    assert "finite values" not in rows


def test_an_unknown_name_and_float16_raise() -> None:
    with pytest.raises(UnknownModelError, match="nanoo"):
        verify("nanoo")
    with pytest.raises(ValueError, match="float16"):
        verify("nano", dtype="float16")


def test_batching_that_changes_vectors_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def left(rows: Any, **options: Any) -> Any:
        ids, lengths = pad(rows, **options)
        shifted = [np.roll(row, len(row) - length) for row, length in zip(ids, lengths, strict=True)]
        return np.array(shifted), np.full_like(lengths, ids.shape[1])

    monkeypatch.setattr(encoder, "pad", left)
    assert "batch = single" in failed(verify("nano"))


def test_a_cache_that_changes_vectors_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    get_many = MemoryCache.get_many

    def noisy(self: MemoryCache, keys: Any) -> Any:
        entries = get_many(self, keys)
        return [
            entry and CachedVector(entry.vector + np.float32(1e-3) * entry.vector[::-1], entry.length) for entry in entries
        ]

    monkeypatch.setattr(MemoryCache, "get_many", noisy)
    assert "cached = computed" in failed(verify("nano"))


def test_a_cache_that_stores_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryCache, "put_many", lambda self, entries: None)
    assert set(failed(verify("nano"))) == {"cached = computed"}


def test_shortened_vectors_that_are_not_normalised_again_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(vectors: Any, options: Any) -> Any:
        whole = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return whole[:, : options.dimensions] if options.dimensions else postprocess(vectors, options)

    monkeypatch.setattr("mlx_qwen_embeddings.engine.call.postprocess", late)
    assert set(failed(verify("nano"))) == {"dimensions"}


def test_the_report_as_text_and_as_data(copy: Path) -> None:
    mean_pooling(copy)
    report = verify(str(copy))
    lines = str(report).splitlines()
    assert lines[0] == f"{copy}: 4 of 16 checks failed; compared with the published values of nano"
    assert any(line.split() == ["✗", "pooling", "last", "token", "mean", "token"] for line in lines)
    assert lines[-4].startswith("pooling: copy")
    assert report.as_dict()["rows"][2]["ok"] is False
    assert json.loads(json.dumps(report.as_dict()))["known"] == "nano"


def known(name: str) -> PublishedModel:
    return next(entry for entry in published_models() if entry.name == name)


SMALL = {"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28}


@pytest.mark.parametrize(
    ("source", "config", "expected"),
    [
        ("Qwen/Qwen3-Embedding-0.6B", SMALL, "Qwen3-Embedding-0.6B"),
        ("mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ", SMALL, "Qwen3-Embedding-0.6B"),
        ("mlx-community/Qwen3-Embedding-0.6B-mxfp8", SMALL, "Qwen3-Embedding-0.6B"),
        ("/models/qwen3-embedding-0.6b", SMALL, "Qwen3-Embedding-0.6B"),
        ("/hub/models--Qwen--Qwen3-Embedding-0.6B/snapshots/c0ffee", SMALL, "Qwen3-Embedding-0.6B"),
        ("Qwen/Qwen3-Embedding-0.6B-GGUF:Q8_0", SMALL, "Qwen3-Embedding-0.6B"),
        ("/models/Qwen3-Embedding-0.6B-f16.gguf", SMALL, "Qwen3-Embedding-0.6B"),
        ("/hub/models--Qwen--Qwen3-Embedding-0.6B-GGUF/snapshots/c0ffee", SMALL, "Qwen3-Embedding-0.6B"),
        ("Qwen/Qwen3-Embedding-8B", {**SMALL, "hidden_size": 4096, "num_hidden_layers": 36}, "Qwen3-Embedding-8B"),
        ("Qwen/Qwen3-Embedding-4B", SMALL, None),  # of another size
        ("someone/Qwen3-Embedding-0.6B", SMALL, None),  # another owner
        ("someone/Qwen3-Embedding-0.6B-GGUF:Q8_0", SMALL, None),
        ("Qwen/Qwen3-Embedding-0.6B-legal", SMALL, None),  # a fine-tune
        ("/models/my-model", SMALL, None),
    ],
)
def test_a_published_model_is_recognised_by_name_owner_and_size(
    source: str, config: dict[str, Any], expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find_published(source, ModelFiles(tmp_path), [])
    assert (found.name if found else None) == expected


def test_the_published_values_are_those_of_the_model_cards() -> None:
    assert known("Qwen3-Embedding-0.6B").scores == [[0.76456, 0.14143], [0.13550, 0.59995]]
    assert known("Qwen3-Embedding-4B").scores == [[0.7534, 0.1147], [0.0320, 0.6258]]
    assert known("Qwen3-Embedding-8B").scores == [[0.74930, 0.07506], [0.08796, 0.63184]]
    assert known("Qwen3-Embedding-0.6B").coordinates == [
        ("document", "hello world", [-0.01476, 0.01723, -0.01195, -0.07275, 0.00281]),
        ("query", "hello world", [-0.01909, 0.01636, -0.00357, -0.03947, -0.01387]),
    ]


@pytest.mark.parametrize(
    ("quantization", "dtype", "allowed"),
    [
        (None, "float32", 1e-3),
        (None, "bfloat16", 5e-3),
        ({"bits": 8, "group_size": 64}, "bfloat16", 0.01),
        ({"mode": "mxfp8", "bits": 8, "group_size": 32}, "bfloat16", 0.02),
        ({"bits": 4, "group_size": 64}, "float32", 0.05),
        ({"bits": 3, "group_size": 64}, "float32", 0.12),
        ({"bits": 8, "group_size": 64, "layers.3.mlp.up_proj": {"bits": 4, "group_size": 64}}, "float32", 0.05),
        ({"layers.0.mlp.up_proj": {"bits": 8, "group_size": 32}}, "float32", 0.01),  # as in a GGUF file with Q8_0
    ],
)
def test_fewer_bits_allow_a_larger_difference(quantization: Any, dtype: str, allowed: float) -> None:
    config = {"quantization": quantization} if quantization else {}
    assert known("Qwen3-Embedding-0.6B").tolerance(config, dtype) == allowed


def test_gguf_types_that_mlx_unpacks_allow_a_larger_difference() -> None:
    assert known("Qwen3-Embedding-0.6B").tolerance({"quantization": {}}, "float32", {"Q6_K", "F32"}) == 0.015
    assert known("Qwen3-Embedding-0.6B").tolerance({"quantization": {}}, "float32", {"F16", "F32"}) == 1e-3


def test_quantisation_allows_no_difference_if_the_values_are_of_the_same_weights() -> None:
    assert known("nano").tolerance({"quantization": {"bits": 8}}, "float32") == 1e-4


def test_padding_and_truncation_in_the_tokenizer_file_are_ignored(copy: Path) -> None:
    def change(data: Any) -> None:
        data["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
        data["padding"] = {
            "strategy": {"Fixed": 16},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 5,
            "pad_type_id": 0,
            "pad_token": "a",
        }

    edit(copy / "tokenizer.json", change)
    assert failed(verify(str(copy))) == {}
