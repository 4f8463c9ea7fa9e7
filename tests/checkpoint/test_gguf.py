"""GGUF files from llama.cpp's own package load, and give the vectors of their dequantised weights."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.gguf.header import read_header
from mlx_qwen_embeddings.checkpoint.gguf.metadata import SPLIT
from mlx_qwen_embeddings.checkpoint.hub import open_folder
from mlx_qwen_embeddings.compute.batching import pad
from mlx_qwen_embeddings.compute.loading import load_model
from mlx_qwen_embeddings.compute.mlx.backend import Backend
from mlx_qwen_embeddings.compute.weights import read_gguf
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.models.layers import pool
from mlx_qwen_embeddings.registry import resolve
from tests.support.bpe_tokenizer import END_ID, ENTRIES, TURN_END_ID, write_bpe
from tests.support.checkpoints import Shape, Weights, random_weights, write_checkpoint, write_unpacked
from tests.support.fake_hub import FakeHub
from tests.support.forward import CPU, PACKED, ROWS, pooled_vectors
from tests.support.gguf_files import metadata_of, rounded, tokenizer_metadata, write_gguf

SHAPE = Shape(hidden_size=64, intermediate_size=192, head_dim=32, vocab_size=ENTRIES)
"""Rows are multiples of 32, the block of every type; there are as many embeddings as the tokenizer has ids."""

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0")

TEXTS = [
    "How do I cook pasta?",
    "What is the recipe for spaghetti?",
    "Tell me about quantum physics",
    "def add(a, b):\n    return a + b",
    "The tide rises, the tide falls, the twilight darkens, the curlew calls. " * 12,
]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(SHAPE)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bpe(tmp_path_factory.mktemp("bpe") / "tokenizer.json")


@pytest.fixture(scope="module")
def metadata(bpe: Path) -> dict[str, Any]:
    """Return the keys of the tiny checkpoint and a tokenizer."""
    named = {"tokenizer.ggml.padding_token_id": END_ID, "tokenizer.ggml.eos_token_id": TURN_END_ID}
    return metadata_of(SHAPE.config()) | tokenizer_metadata(bpe) | named


@pytest.fixture(scope="module")
def small_file(metadata: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file of a few kilobytes that has everything a header can have."""
    path = tmp_path_factory.mktemp("small") / "model.gguf"
    extra = {
        "general.name": "tiny",
        "general.alignment": 32,
        "a.flag": True,
        "a.numbers": [1.5, 2.5],
        "a.words": ["x", "ÿ"],
    }
    tensors = {"norm.weight": np.ones(64, np.float32), "embed_tokens.weight": np.ones((8, 64), np.float32)}
    plain = {name: value for name, value in metadata.items() if not name.startswith("tokenizer.")}
    return write_gguf(path, tensors, plain | extra, "Q8_0")


def vectors(path: Path, backend: Backend = CPU) -> NDArray[np.float32]:
    model = load_model(ModelFiles(path.parent, gguf=path), backend)
    ids, lengths = pad([np.array(row, dtype=np.int32) for row in ROWS])
    pooled = np.array(pool(model(mx.array(ids), mx.array(lengths)), mx.array(lengths), "last"))
    normalised: NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return normalised


@pytest.mark.parametrize("backend", [CPU, PACKED], ids=["unpacked", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_gives_the_vectors_of_its_dequantised_weights(
    kind: str, backend: Backend, weights: Weights, metadata: dict[str, Any], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", weights, metadata, kind)
    expected = pooled_vectors(write_checkpoint(tmp_path / "plain", rounded(weights, kind), SHAPE.config()))
    np.testing.assert_allclose(vectors(path, backend), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "cosine"), [("F32", 1 - 1e-6), ("F16", 1 - 1e-5), ("Q8_0", 0.9995), ("Q4_1", 0.9), ("Q4_0", 0.9)]
)
def test_every_type_is_near_the_plain_checkpoint(
    kind: str, cosine: float, weights: Weights, metadata: dict[str, Any], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", weights, metadata, kind)
    expected = pooled_vectors(write_checkpoint(tmp_path / "plain", weights, SHAPE.config()))
    assert np.einsum("nd,nd->n", vectors(path), expected).min() > cosine


def test_q6_k_is_read_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    # The package cannot write this type, so the blocks are random bits with an ordinary scale.
    kind = gguf.GGMLQuantizationType.Q6_K
    blocks = np.random.default_rng(0).integers(0, 256, (8, 2, 210), dtype=np.uint8)
    blocks[..., 208:] = np.frombuffer(np.float16(2e-4).tobytes(), np.uint8)
    packed = blocks.reshape(8, 420)
    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "qwen3")
    writer.add_tensor("token_embd.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = read_gguf(tmp_path / "model.gguf")["embed_tokens.weight"]
    np.testing.assert_allclose(np.array(read.astype(mx.float32)), gguf.dequantize(packed, kind), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("kind", "cosine"), [("F16", 0.999999), ("Q8_0", 0.9998), ("Q4_1", 0.97), ("Q4_0", 0.96)])
def test_nano_as_gguf_with_its_tokenizer_beside_it(kind: str, cosine: float, tmp_path: Path) -> None:
    plain = write_unpacked(tmp_path / "plain")
    stored = mx.load(str(plain / "model.safetensors"))
    assert isinstance(stored, dict)
    arrays = {name: np.array(value) for name, value in stored.items()}
    config = json.loads((plain / "config.json").read_text())
    # nano lowercases its text, which no ``tokenizer.ggml.pre`` can say: its tokenizer.json does.
    said = metadata_of(config) | tokenizer_metadata(plain / "tokenizer.json", pre="nano")
    path = write_gguf(tmp_path / "gguf" / "nano.gguf", arrays, said, kind)
    for name in ("tokenizer.json", "config_sentence_transformers.json"):
        shutil.copyfile(plain / name, path.parent / name)
    half = write_unpacked(tmp_path / "rounded")
    mx.save_safetensors(
        str(half / "model.safetensors"), {name: mx.array(value) for name, value in rounded(arrays, kind).items()}
    )
    found = [embed(str(model)) for model in (path, plain, half)]
    assert np.einsum("nd,nd->n", found[0], found[1]).min() > cosine
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)


def embed(model: str) -> NDArray[np.float32]:
    with EmbeddingEngine(model) as engine:
        return np.concatenate([engine.embed_documents(TEXTS), engine.embed_queries(TEXTS)])


def test_the_metadata_says_all_that_the_engine_needs(weights: Weights, metadata: dict[str, Any], tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", weights, metadata | {"qwen3.context_length": 40_960})
    folder = write_checkpoint(tmp_path / "plain", rounded(weights, "F16"), SHAPE.config())
    write_bpe(folder / "tokenizer.json")
    with EmbeddingEngine(str(path)) as engine, EmbeddingEngine(str(folder)) as plain:
        assert (engine.dimensions, engine.max_length, engine.limit) == (64, 8192, 40_960)
        np.testing.assert_allclose(engine.embed_documents(TEXTS), plain.embed_documents(TEXTS), atol=1e-5)
        task = "Given a web search query, retrieve relevant passages that answer the query"
        asked = engine.embed_documents([f"Instruct: {task}\nQuery:{text}" for text in TEXTS])
        np.testing.assert_allclose(engine.embed_queries(TEXTS), asked, atol=1e-5)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tokenizer of Qwen's kind on a few kilobytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, *Path(__file__).read_text().splitlines()], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<think>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def file(original: Path) -> Path:
    # Converters fill the table up to the number of embeddings.
    said = tokenizer_metadata(original)
    said["tokenizer.ggml.tokens"] += ["[PAD904]", "[PAD905]"]
    said["tokenizer.ggml.token_type"] += [5, 5]
    said |= {"tokenizer.ggml.eos_token_id": 902, "tokenizer.ggml.add_eos_token": False}
    weights = {"embed_tokens.weight": np.zeros((906, 64), np.float32)}
    return write_gguf(original.parent / "model.gguf", weights, metadata_of(SHAPE.config()) | said)


class TestTokenizer:
    @given(text=st.text(max_size=60) | st.text("aé́ \n\t'SsLl12_<|>endoftxhik", max_size=60))
    @settings(max_examples=300)
    def test_it_gives_the_original_ids_and_the_end_token(self, original: Path, file: Path, text: str) -> None:
        rebuilt = ModelFiles(file.parent, gguf=file).tokenizer()
        expected = Tokenizer.from_file(str(original)).encode(text).ids
        assert rebuilt.encode([text], max_length=1000)[0].ids.tolist() == [*expected, 900]

    def test_the_end_token_is_never_the_end_of_a_turn_of_chat(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            tokenizer = ModelFiles(file.parent, gguf=file).tokenizer()
        assert tokenizer.suffix == (900,)
        assert not tokenizer.repaired
        assert not caplog.records
        assert tokenizer.vocabulary_size == 904

    def test_a_file_without_one_takes_the_one_beside_it(self, original: Path, tmp_path: Path) -> None:
        weights = {"embed_tokens.weight": np.zeros((906, 64), np.float32)}
        path = write_gguf(tmp_path / "model.gguf", weights, metadata_of(SHAPE.config()))
        with pytest.raises(ModelLoadError, match=r"has no tokenizer\.json"):
            ModelFiles(tmp_path, gguf=path).tokenizer()
        shutil.copyfile(original, tmp_path / "tokenizer.json")
        assert ModelFiles(tmp_path, gguf=path).tokenizer().suffix == (900,)

    def test_the_one_beside_it_must_have_the_same_tokens(self, original: Path, tmp_path: Path) -> None:
        said = tokenizer_metadata(original, pre="another")
        said["tokenizer.ggml.tokens"][5] = "strange"
        weights = {"embed_tokens.weight": np.zeros((906, 64), np.float32)}
        path = write_gguf(tmp_path / "model.gguf", weights, metadata_of(SHAPE.config()) | said)
        shutil.copyfile(original, tmp_path / "tokenizer.json")
        with pytest.raises(ModelLoadError, match="belongs to another model: its token 5 is '&', the file's is 'strange'"):
            ModelFiles(tmp_path, gguf=path).tokenizer()

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("tokenizer.ggml.merges", ["a b c"], "cannot be rebuilt"),
            ("tokenizer.ggml.merges", ["zz qq"], "cannot be rebuilt"),
            ("tokenizer.ggml.token_type", [1, 1], r"904 tokens \(904 different\), 2 types"),
            ("tokenizer.ggml.tokens", ["a"] * 904, r"904 tokens \(1 different\)"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(
        self, original: Path, tmp_path: Path, key: str, value: list[Any], expected: str
    ) -> None:
        weights = {"embed_tokens.weight": np.zeros((906, 64), np.float32)}
        said = metadata_of(SHAPE.config()) | tokenizer_metadata(original) | {key: value}
        path = write_gguf(tmp_path / "model.gguf", weights, said | {"tokenizer.ggml.padding_token_id": 0})
        with pytest.raises(ModelLoadError, match=expected):
            ModelFiles(tmp_path, gguf=path).tokenizer()


class TestMetadata:
    @pytest.mark.parametrize(("number", "pooling"), [(0, "last"), (1, "mean"), (2, "first"), (3, "last"), (None, "last")])
    def test_pooling(self, number: int | None, pooling: str, tmp_path: Path) -> None:
        assert self.files(tmp_path, {"qwen3.pooling_type": number}).pooling == pooling

    def test_files_beside_it_fill_in_what_the_metadata_leaves_open(self, tmp_path: Path) -> None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
        (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "ask: "}}')
        assert self.files(tmp_path, {"qwen3.pooling_type": None}).pooling == "mean"
        assert self.files(tmp_path, {"qwen3.pooling_type": 3}).pooling == "last"
        assert self.files(tmp_path, {}).prompts["query"] == "ask: "

    def test_a_chat_template(self, tmp_path: Path) -> None:
        assert self.files(tmp_path, {"tokenizer.chat_template": "{{ x }}"}).chat_template == "{{ x }}"
        assert self.files(tmp_path, {}).chat_template is None

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            ({"qwen3.pooling_type": 4}, "pooling_type 4, which gives no embedding"),
            ({"qwen3.rope.freq_base": None}, "lacks rope_theta"),
            ({"qwen3.rope.scaling.type": "yarn"}, "rope scaling 'yarn'"),
            ({"split.count": 2}, "a piece of a split model: .*llama-gguf-split --merge"),
            ({"qwen3.block_count": 3}, "they lack layers.2"),
            ({"qwen3.block_count": 1}, "they hold the unknown layers.1"),
            ({"qwen3.embedding_length": 96}, "another shape for"),
        ],
    )
    def test_what_is_not_served_is_refused(self, said: dict[str, Any], expected: str, tmp_path: Path) -> None:
        path = self.files(tmp_path, said).gguf
        with EmbeddingEngine(str(path)) as engine, pytest.raises(ModelLoadError, match=expected):
            engine.embed_documents(["a"])

    def test_another_architecture_is_named(self, tmp_path: Path) -> None:
        path = write_gguf(tmp_path / "model.gguf", {"norm.weight": np.ones(64, np.float32)}, {}, architecture="llama")
        with (
            EmbeddingEngine(str(path)) as engine,
            pytest.raises(ModelLoadError, match="architecture 'llama'; as GGUF only qwen3"),
        ):
            engine.embed_documents(["a"])

    def files(self, folder: Path, said: dict[str, Any]) -> ModelFiles:
        bpe = write_bpe(folder.parent / f"{folder.name}-tokenizer.json")
        own = metadata_of(SHAPE.config()) | tokenizer_metadata(bpe) | said
        return ModelFiles(folder, gguf=write_gguf(folder / "model.gguf", random_weights(SHAPE), own))


class TestChoice:
    def test_a_folder_with_one_file(self, weights: Weights, metadata: dict[str, Any], tmp_path: Path) -> None:
        path = write_gguf(tmp_path / "model.gguf", weights, metadata)
        np.testing.assert_array_equal(embed(str(tmp_path)), embed(str(path)))

    def test_a_folder_with_several_lists_them(self, small_file: Path, tmp_path: Path) -> None:
        for name in ("Model-f16.gguf", "Model-Q8_0.gguf"):
            shutil.copyfile(small_file, tmp_path / name)
        expected = "2 GGUF files: Model-Q8_0.gguf, Model-f16.gguf. Say which one: give its path, .*/Model-Q8_0.gguf"
        with EmbeddingEngine(str(tmp_path)) as engine, pytest.raises(ModelLoadError, match=expected):
            engine.embed_documents(["a"])

    def test_safetensors_in_the_same_folder_take_precedence(
        self, weights: Weights, metadata: dict[str, Any], tmp_path: Path
    ) -> None:
        write_gguf(tmp_path / "model.gguf", weights, metadata | {"qwen3.context_length": 99})
        write_bpe(write_checkpoint(tmp_path, weights, SHAPE.config()) / "tokenizer.json")
        with EmbeddingEngine(str(tmp_path)) as engine:
            assert engine.limit == 2048

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"")
        with (
            EmbeddingEngine(str(tmp_path / "model.safetensors")) as engine,
            pytest.raises(ModelLoadError, match=r"neither a folder nor a \.gguf file"),
        ):
            engine.embed_documents(["a"])

    def test_a_link_of_the_hubs_cache_keeps_its_name(self, small_file: Path, tmp_path: Path) -> None:
        link = tmp_path / "model-Q8_0.gguf"
        blob = tmp_path / "0123abc"
        shutil.copyfile(small_file, blob)
        link.symlink_to(blob)
        assert resolve(str(link)).source == str(link)

    def test_two_files_of_one_folder_have_different_fingerprints(
        self, weights: Weights, metadata: dict[str, Any], tmp_path: Path
    ) -> None:
        prints = []
        for kind in ("F16", "Q8_0"):
            with EmbeddingEngine(str(write_gguf(tmp_path / f"{kind}.gguf", weights, metadata, kind))) as engine:
                prints.append(engine.fingerprint)
        with EmbeddingEngine(str(tmp_path / "F16.gguf")) as engine:
            assert engine.fingerprint == prints[0] != prints[1]


class TestHub:
    NAME = "Qwen/Qwen3-Embedding-0.6B-GGUF"
    FILES = ("Qwen3-Embedding-0.6B-Q8_0.gguf", "Qwen3-Embedding-0.6B-f16.gguf")

    @pytest.fixture
    def hub(
        self, weights: Weights, metadata: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[FakeHub]:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        commit = {"README.md": b"a model"}
        for name, kind in zip(self.FILES, ("Q8_0", "F16"), strict=True):
            commit[name] = write_gguf(tmp_path / name, weights, metadata, kind).read_bytes()
        with FakeHub(self.NAME, {"a" * 40: commit}, {"main": "a" * 40}) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            yield hub

    def test_the_tag_picks_the_one_file_that_is_downloaded(self, hub: FakeHub, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        with EmbeddingEngine(f"{self.NAME}:q8_0", cache_dir=cache) as engine:
            found = engine.embed_documents(TEXTS)
        with EmbeddingEngine(str(tmp_path / self.FILES[0])) as engine:
            np.testing.assert_array_equal(found, engine.embed_documents(TEXTS))
        downloads = [request for request in hub.log if "/resolve/" in request]
        assert any(self.FILES[0] in request for request in downloads)
        assert not any(self.FILES[1] in request or "README" in request for request in downloads)
        requests = len(hub.log)
        opened = open_folder(resolve(f"{self.NAME}:Q8_0"), cache_dir=cache, offline=True)
        assert opened.gguf is not None
        assert opened.gguf.name == self.FILES[0]
        assert len(hub.log) == requests

    @pytest.mark.parametrize(
        ("tag", "expected"), [("", "has 2 GGUF files"), (":Q4_0", "has no GGUF file 'Q4_0'"), (":_0", "no GGUF file '_0'")]
    )
    def test_an_unclear_choice_lists_the_files_before_any_download(
        self, hub: FakeHub, tmp_path: Path, tag: str, expected: str
    ) -> None:
        listed = f"{expected}: {', '.join(self.FILES)}. Say which one: {self.NAME}:Q8_0 takes"
        with pytest.raises(ModelLoadError, match=listed):
            open_folder(resolve(self.NAME + tag), cache_dir=tmp_path / "cache")
        assert not any("/resolve/" in request for request in hub.log)

    def test_the_only_file_needs_no_tag(self, hub: FakeHub, tmp_path: Path) -> None:
        del hub.commits["a" * 40][self.FILES[1]]
        opened = open_folder(resolve(self.NAME), cache_dir=tmp_path / "cache")
        assert opened.gguf is not None
        assert opened.gguf.name == self.FILES[0]


def patched(source: Path, target: Path, position: int, content: bytes) -> Path:
    data = bytearray(source.read_bytes())
    data[position : position + len(content)] = content
    target.write_bytes(data)
    return target


HUGE = (2**63).to_bytes(8, "little")


class TestBrokenHeader:
    @pytest.mark.parametrize(
        ("position", "content", "expected"),
        [
            (0, b"GGML", "does not begin with 'GGUF'"),
            (4, b"\x01\0\0\0", "version 1, or big-endian"),
            (4, b"\0\0\0\x03", "version 50331648, or big-endian"),
            (8, HUGE, ""),
            (16, HUGE, ""),
            (24, HUGE, "a string of 9223372036854775808 bytes at byte 32 of a file"),
            (24, b"\xff\xff\0\0\0\0\0\0", "a string of 65535 bytes at byte 32 of a file"),
            (32, b"\xff\xff", "can't decode byte 0xff"),
        ],
    )
    def test_a_broken_beginning_is_refused(
        self, position: int, content: bytes, expected: str, small_file: Path, tmp_path: Path
    ) -> None:
        path = patched(small_file, tmp_path / "model.gguf", position, content)
        with EmbeddingEngine(str(path)) as engine, pytest.raises(ModelLoadError, match=f"no whole GGUF file .*{expected}"):
            engine.embed_documents(["a"])

    @pytest.mark.parametrize(
        ("place", "content", "expected"),
        [
            ((b"token_embd.weight", 0), b"\x09", "'token_embd.weight' has 9 dimensions"),
            ((b"token_embd.weight", 0), b"\0", "'token_embd.weight' has 0 dimensions"),
            ((b"token_embd.weight", 4), b"\x21", r"'token_embd.weight' of type Q8_0 cannot have the shape \(8, 33\)"),
            ((b"token_embd.weight", 4), bytes(8), r"cannot have the shape \(8, 0\)"),
            ((b"token_embd.weight", 12), HUGE, r"cannot have the shape \(9223372036854775808, 64\)"),
            ((b"token_embd.weight", 12), b"\0\0\0\x40", "ends at byte .* it is cut short"),
            ((b"token_embd.weight", 24), b"\x01", "begins at 257, no multiple of the alignment 32"),
            ((b"token_embd.weight", 24), HUGE, "it is cut short"),
            ((b"general.alignment", 4), b"\x1f", "general.alignment is 31, no power of two"),
            ((b"general.alignment", 4), bytes(4), "general.alignment is 0, no power of two"),
            ((b"general.alignment", 0), b"\x63", "a value of type 99, which no served model has"),
            ((b"a.numbers", 4), b"\x09", "a value of type 9, which"),
            ((b"a.numbers", 8), HUGE, "a value of 36893488147419103232 bytes"),
            ((b"a.words", 8), HUGE, "is no whole GGUF file"),
        ],
    )
    def test_a_broken_entry_is_refused(
        self, place: tuple[bytes, int], content: bytes, expected: str, small_file: Path, tmp_path: Path
    ) -> None:
        position = small_file.read_bytes().index(place[0]) + len(place[0]) + place[1]
        path = patched(small_file, tmp_path / "model.gguf", position, content)
        with pytest.raises(ModelLoadError, match=expected):
            read_header(path)

    def test_a_repeated_key_is_refused(self, small_file: Path, tmp_path: Path) -> None:
        data = small_file.read_bytes()
        target = tmp_path / "model.gguf"
        target.write_bytes(data.replace(b"qwen3.rope.freq_base", b"qwen3.context_length"))
        with pytest.raises(ModelLoadError, match=r"the key .qwen3\.context_length. is there twice"):
            read_header(target)

    def test_a_type_that_mlx_misreads_is_named_with_a_remedy(self, small_file: Path, tmp_path: Path) -> None:
        place = small_file.read_bytes().index(b"token_embd.weight") + 17 + 20
        path = patched(small_file, tmp_path / "model.gguf", place, b"\x0c")
        expected = r"'token_embd.weight' is of type Q4_K, .* take the Q8_0 or F16 file"
        with EmbeddingEngine(str(path)) as engine, pytest.raises(ModelLoadError, match=expected):
            engine.embed_documents(["a"])

    def test_every_cut_is_refused(self, small_file: Path, tmp_path: Path) -> None:
        data = small_file.read_bytes()
        path = tmp_path / "model.gguf"
        for length in (*range(0, len(data), 7), len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(ModelLoadError, match="is no whole GGUF file"):
                read_header(path)

    def test_no_damage_crashes_the_process(self, small_file: Path, tmp_path: Path) -> None:
        """Change bytes of the header: each file is refused or read, and the process survives."""
        program = """
import random, sys
from pathlib import Path
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.compute.weights import read_gguf
import mlx.core as mx
source, target = map(Path, sys.argv[1:])
data, chance, read = source.read_bytes(), random.Random(0), 0
for _ in range(600):
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        damaged[chance.randrange(1000)] = chance.choice([0, 1, 8, 127, 255, chance.randrange(256)])
    target.write_bytes(damaged)
    try:
        mx.eval(read_gguf(target))
    except ModelLoadError:
        continue
    read += 1
print(read)
mx.clear_streams()
"""
        command = [sys.executable, "-c", program, str(small_file), str(tmp_path / "model.gguf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        assert 0 < int(done.stdout) < 600
