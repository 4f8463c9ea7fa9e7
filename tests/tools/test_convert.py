"""What ``convert`` writes, compared with numpy and with mlx-lm's converter, and that a failure leaves nothing behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import convert as mlx_lm_convert
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.errors import MissingExtraError, ModelLoadError
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tools.convert import ConversionError, Cost, conversion, convert
from mlx_qwen_embeddings.tools.convert.packing import choose_packing
from mlx_qwen_embeddings.tools.evaluate import LABELLED, read_retrieval
from mlx_qwen_embeddings.tools.verify import verify
from tests.support.bert_reference import BertShape, bert_weights, write_bert
from tests.support.bpe_tokenizer import END_ID, write_bpe
from tests.support.checkpoints import (
    NANO_END,
    NANO_ENTRIES,
    PACKABLE,
    WITH_TOKENIZER,
    Shape,
    Weights,
    random_weights,
    write_checkpoint,
)
from tests.support.command_line import run
from tests.support.forward import pooled_vectors
from tests.support.gguf_files import metadata_of, tokenizer_metadata, write_gguf
from tests.support.power_cut import watched_renames
from tests.support.references import unpack

SHAPE = Shape(hidden_size=128, intermediate_size=256, head_dim=32, vocab_size=NANO_ENTRIES)
"""Every row is a multiple of 128, the largest group, and every id of nano's tokenizer has an embedding."""

TEXTS = ["The tide follows the moon.", "import numpy as np", "Où est la gare ?", "x", "A long text. " * 40]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(SHAPE)


@pytest.fixture(scope="module")
def source(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", weights, SHAPE.config())


def stored(folder: Path) -> dict[str, mx.array]:
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    return dict(arrays)


def embed(model: Path | str, texts: list[str] = TEXTS, **settings: Any) -> NDArray[np.float32]:
    with EmbeddingEngine(str(model), **settings) as engine:
        return engine.embed_queries(texts)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.einsum("nd,nd->n", a, b)
    return found


def numbers(words: NDArray[np.uint32], bits: int) -> Any:
    """Return the unsigned integers of this width in the bits of each row, lowest bit first."""
    stream = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").reshape(len(words), -1, bits)
    return (stream.astype(np.int64) << np.arange(bits)).sum(-1)


# Packed weights


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_affine_rounding_is_half_a_step(bits: int, group: int, source: Path, weights: Weights, tmp_path: Path) -> None:
    done = convert(str(source), tmp_path / "out", bits=bits, group_size=group, report=False)
    arrays = stored(tmp_path / "out")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert said == {"bits": bits, "group_size": group, "mode": "affine"}
    assert (str(done.packing), done.dtype, done.unpacked) == (f"{bits} bits, groups of {group}, affine", "float32", 0)
    for name in ("embed_tokens", "layers.1.self_attn.v_proj", "layers.0.mlp.down_proj"):
        parts = [np.array(arrays[f"model.{name}.{part}"]) for part in ("weight", "scales", "biases")]
        scales, biases = (np.repeat(part, group, axis=1) for part in parts[1:])
        error = np.abs(numbers(parts[0], bits) * scales + biases - weights[f"{name}.weight"])
        # Half a step, except at the ends of a range, which MLX moves so that 0 is exact.
        assert (error <= 1.001 * np.abs(scales)).all()
        assert error.mean() < 0.33 * np.abs(scales).mean()


@pytest.mark.parametrize(("mode", "worst"), [("mxfp4", 0.3), ("mxfp8", 0.07), ("nvfp4", 0.3)])
def test_the_other_modes(mode: str, worst: float, source: Path, weights: Weights, tmp_path: Path) -> None:
    convert(str(source), tmp_path / "out", mode=mode, report=False)
    arrays = stored(tmp_path / "out")
    for name in ("embed_tokens", "layers.1.self_attn.v_proj"):
        packed, scales = (np.array(arrays[f"model.{name}.{part}"]) for part in ("weight", "scales"))
        error = np.abs(
            unpack(packed, scales, None, mode=mode, bits=8 if mode == "mxfp8" else 4) - weights[f"{name}.weight"]
        )
        group = weights[f"{name}.weight"].reshape(-1, 16 if mode == "nvfp4" else 32)
        assert (error.reshape(group.shape) <= worst * np.abs(group).max(axis=1, keepdims=True)).all()
    assert cosines(embed(source), embed(tmp_path / "out")).min() > 0.8


def test_the_result_equals_that_of_mlx_lms_converter(weights: Weights, tmp_path: Path) -> None:
    prefixed = write_checkpoint(tmp_path / "prefixed", weights, SHAPE.config(), prefix="model.")
    mlx_lm_convert(str(prefixed), str(tmp_path / "theirs"), quantize=True, q_bits=4, q_group_size=64, dtype="bfloat16")
    convert(str(prefixed), tmp_path / "ours", bits=4, dtype="bfloat16", report=False)
    ours, theirs = stored(tmp_path / "ours"), stored(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].dtype != theirs[name].dtype] == []
    assert [name for name in ours if not mx.array_equal(ours[name], theirs[name])] == []
    said = [json.loads((tmp_path / name / "config.json").read_text())["quantization"] for name in ("ours", "theirs")]
    assert said[0] == said[1]


def test_mlx_lm_reads_the_result(source: Path, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model

    convert(str(source), tmp_path / "out", bits=8, report=False)
    model, _ = load_model(tmp_path / "out")
    ids = [5, 900, NANO_END]
    theirs = np.array(model.model(mx.array([ids]))[0, -1])
    ours = pooled_vectors(tmp_path / "out", rows=[ids])[0]
    np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs), atol=1e-5)


def test_matrices_whose_rows_do_not_fit_are_not_packed(tmp_path: Path) -> None:
    shape = Shape(**{name: getattr(PACKABLE, name) for name in PACKABLE.__slots__} | {"vocab_size": NANO_ENTRIES})
    folder = write_checkpoint(tmp_path / "source", random_weights(shape), shape.config())
    done = convert(str(folder), tmp_path / "out", bits=8, group_size=128, report=False)
    packed = sorted(name for name in stored(tmp_path / "out") if name.endswith(".scales"))
    assert packed == [f"model.layers.{layer}.self_attn.o_proj.scales" for layer in (0, 1)]
    assert done.unpacked == 13
    assert "not packed, because their rows are not a multiple of 128: 13 matrices" in str(done)
    assert cosines(embed(folder), embed(tmp_path / "out")).min() > 0.999


def test_a_model_in_which_no_row_fits_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "source", random_weights(WITH_TOKENIZER), WITH_TOKENIZER.config())
    with pytest.raises(
        ConversionError, match=rf"nothing in {folder} can be packed in groups of 128: .*smaller --group-size"
    ):
        convert(str(folder), tmp_path / "out", bits=4, group_size=128)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# Plain weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_without_bits_only_the_type_changes(dtype: str, source: Path, weights: Weights, tmp_path: Path) -> None:
    done = convert(str(source), tmp_path / "out", dtype=dtype, report=False)
    arrays = stored(tmp_path / "out")
    assert {name.removeprefix("model.") for name in arrays} == weights.keys()
    for name, array in arrays.items():
        assert array.dtype == getattr(mx, dtype)
        assert mx.array_equal(array, mx.array(weights[name.removeprefix("model.")]).astype(array.dtype))
    assert (done.packing, done.dtype, done.repacked) == (None, dtype, False)


def test_the_type_is_the_sources_by_default(weights: Weights, tmp_path: Path) -> None:
    half = {name: mx.array(value).astype(mx.bfloat16) for name, value in weights.items()}
    folder = write_checkpoint(tmp_path / "source", half, SHAPE.config(), shards=3)
    assert convert(str(folder), tmp_path / "out", bits=4, report=False).dtype == "bfloat16"
    arrays = stored(tmp_path / "out")
    assert {arrays[name].dtype for name in arrays if not name.endswith(".weight") or "norm" in name} == {mx.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_packed_source_is_unpacked(tmp_path: Path) -> None:
    done = convert("nano", tmp_path / "plain", report=False)
    packed, plain = stored(NANO_FOLDER), stored(tmp_path / "plain")
    for name, bits in (("embed_tokens", 5), ("layers.3.mlp.down_proj", 8)):
        parts = [np.array(packed[f"{name}.{part}"], dtype=np.float64) for part in ("scales", "biases")]
        expected = unpack(np.array(packed[f"{name}.weight"]), parts[0], parts[1], mode="affine", bits=bits)
        np.testing.assert_allclose(np.array(plain[f"model.{name}.weight"]), expected, atol=1e-6)
    assert "quantization" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    np.testing.assert_allclose(embed("nano"), embed(tmp_path / "plain"), atol=1e-6)
    assert done.repacked is False


# Folders


def test_nano_in_four_bits_is_close_and_passes_verify(tmp_path: Path) -> None:
    done = convert("nano", tmp_path / "out", bits=4, report=False)
    assert "rounded twice" in str(done)
    assert done.target_bytes < 0.8 * done.source_bytes
    assert cosines(embed("nano"), embed(tmp_path / "out")).min() > 0.97
    report = verify(str(tmp_path / "out"))
    assert report.ok, str(report)
    for path in NANO_FOLDER.rglob("*.json"):
        copy = tmp_path / "out" / path.relative_to(NANO_FOLDER)
        if path.name != "config.json" or path.parent != NANO_FOLDER:
            assert json.loads(copy.read_text("utf-8")) == json.loads(path.read_text("utf-8"))
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert card.startswith((NANO_FOLDER / "README.md").read_text("utf-8").rstrip())
    assert "## Converted from nano\n" in card
    assert "- 4 bits, groups of 64, affine; the rest float32" in card


def test_files_that_a_bare_folder_lacks_are_written(source: Path, tmp_path: Path) -> None:
    source = shutil.copytree(source, tmp_path / "source")
    for name in ("pytorch_model.bin", "run.py"):
        (source / name).write_text("{}")
    convert(str(source), tmp_path / "out", report=False)
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    files = ModelFiles(tmp_path / "out")
    assert (files.pooling, files.prompts) == ("last", {"query": QWEN3_PROMPT, "document": ""})
    assert json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())["pooling_mode_lasttoken"] is True
    np.testing.assert_allclose(embed(source), embed(tmp_path / "out"), atol=1e-6)


def test_bert(tmp_path: Path) -> None:
    shape = BertShape(hidden_size=64, intermediate_size=128)
    folder = write_bert(tmp_path / "source", bert_weights(shape), shape.config())
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    convert(str(folder), tmp_path / "out", bits=8, group_size=32, report=False)
    assert "encoder.layer.0.attention.self.query.scales" in stored(tmp_path / "out")
    assert ModelFiles(tmp_path / "out").pooling == "first"
    texts = ["the tide", "the moon over water", "a"]
    assert cosines(embed(folder, texts), embed(tmp_path / "out", texts)).min() > 0.999


def test_a_gguf_becomes_a_folder(weights: Weights, tmp_path: Path) -> None:
    said = metadata_of(SHAPE.config()) | tokenizer_metadata(write_bpe(tmp_path / "tokenizer.json"))
    end = {"tokenizer.ggml.eos_token_id": END_ID, "tokenizer.ggml.padding_token_id": END_ID}
    path = write_gguf(tmp_path / "gguf" / "model.gguf", weights, said | end, "Q8_0")
    done = convert(str(path), tmp_path / "out", report=False)
    assert (done.source_bytes, done.dtype) == (path.stat().st_size, "float16")
    np.testing.assert_allclose(embed(path), embed(tmp_path / "out"), atol=1e-3)
    assert verify(str(tmp_path / "out")).ok


# The report


def test_the_report_agrees_with_numpy(source: Path, tmp_path: Path) -> None:
    cost = convert(str(source), tmp_path / "out", bits=3).cost
    data = read_retrieval(LABELLED)
    vectors = []
    for model in (source, tmp_path / "out"):
        with EmbeddingEngine(str(model)) as engine:
            vectors.append((engine.embed_documents(data.documents.values()), engine.embed_queries(data.queries.values())))
    (documents, queries), (packed_documents, packed_queries) = vectors
    turned = np.concatenate([cosines(documents, packed_documents), cosines(queries, packed_queries)])
    assert cost is not None
    assert cost.texts == 500
    assert cost.mean == pytest.approx(turned.mean(), abs=1e-6)
    assert cost.worst == pytest.approx(turned.min(), abs=1e-6)
    assert cost.worst_text == [*data.documents.values(), *data.queries.values()][turned.argmin()]
    assert cost.source_ndcg == pytest.approx(gains(documents, queries).mean(), abs=1e-6)
    assert cost.result_ndcg == pytest.approx(gains(packed_documents, packed_queries).mean(), abs=1e-6)
    changes = gains(packed_documents, packed_queries) - gains(documents, queries)
    assert cost.error == pytest.approx(np.sqrt(changes.var(ddof=1) / 350), abs=1e-6)
    assert cost.mean < 0.999
    assert cost.source_ndcg != cost.result_ndcg
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"cosine to the source over 500 texts: mean {cost.mean:.5f}, worst {cost.worst:.5f}" in card


def gains(documents: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each question's nDCG@10. With one answer per question it is 1 / log2(1 + rank)."""
    rows = [json.loads(line) for line in (LABELLED / "corpus.jsonl").read_text("utf-8").splitlines()]
    place = {row["_id"]: number for number, row in enumerate(rows)}
    pairs = [line.split("\t") for line in (LABELLED / "qrels.tsv").read_text().splitlines()[1:]]
    scores = queries @ documents.T
    found = []
    for query, (_, document, _) in zip(scores, pairs, strict=True):
        rank = 1 + int((query > query[place[document]]).sum())
        found.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    return np.array(found)


def test_the_labelled_set_is_500_texts_with_their_licence() -> None:
    data = read_retrieval(LABELLED)
    assert len(data.documents) + len(data.queries) == len({*data.documents.values(), *data.queries.values()}) == 500
    assert [
        list(answers)
        for answers in data.relevance.values()
        if len(answers) != 1 or not answers.keys() <= data.documents.keys()
    ] == []
    assert sum(path.stat().st_size for path in LABELLED.iterdir()) < 150_000
    assert "Creative Commons Attribution-ShareAlike 4.0" in (LABELLED / "README.md").read_text("utf-8")


# Refusals


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"bits": 7}, "--bits 7 is not possible in mode 'affine': it is one of 2, 3, 4, 5, 6, 8"),
    ({"bits": 4, "group_size": 0}, "--group-size 0 is not possible in mode 'affine': it is one of 32, 64, 128"),
    ({"group_size": 64}, "--bits is needed: it is one of 2, 3, 4, 5, 6, 8"),
    ({"mode": "affine"}, "--bits is needed: it is one of 2, 3, 4, 5, 6, 8"),
    ({"bits": 4, "group_size": 16}, "--group-size 16 is not possible in mode 'affine': it is one of 32, 64, 128"),
    ({"bits": 8, "mode": "mxfp4"}, "--bits 8 is not possible in mode 'mxfp4': it is one of 4"),
    ({"group_size": 32, "mode": "nvfp4"}, "--group-size 32 is not possible in mode 'nvfp4': it is one of 16"),
    ({"mode": "int4"}, "--mode is one of affine, mxfp4, mxfp8, nvfp4, not 'int4'"),
    ({"dtype": "float64"}, "--dtype is one of float32, bfloat16, float16, not 'float64'"),
]


@pytest.mark.parametrize(("asked", "message"), REFUSED, ids=[str(asked) for asked, _ in REFUSED])
def test_what_mlx_cannot_pack_is_refused_with_the_choices(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        convert("nano", tmp_path / "out", **asked)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_modes_with_one_width_need_no_bits() -> None:
    made = [str(choose_packing(None, None, mode)) for mode in ("mxfp4", "mxfp8", "nvfp4")]
    assert made == ["4 bits, groups of 32, mxfp4", "8 bits, groups of 32, mxfp8", "4 bits, groups of 16, nvfp4"]
    assert str(choose_packing(5, None, None)) == "5 bits, groups of 64, affine"
    assert choose_packing(None, None, None) is None


def fill(target: Path) -> None:
    target.mkdir()
    (target / "notes.txt").write_text("mine")


def link(target: Path) -> None:
    target.symlink_to(target.parent / "elsewhere")


@pytest.mark.parametrize("occupy", [fill, Path.touch, link], ids=["folder", "file", "link"])
def test_existing_files_are_never_overwritten(occupy: Any, tmp_path: Path) -> None:
    occupy(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConversionError, match=rf"^{tmp_path}/out exists: name a new or empty folder"):
        convert("nano", tmp_path / "out", bits=4)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_target_is_filled_and_a_missing_parent_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(str(source), tmp_path / "out", bits=4, report=False)
    assert (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(
        ConversionError, match=rf"{tmp_path}/no is not a folder, so out cannot be made in it: make it first"
    ):
        convert(str(source), tmp_path / "no" / "out", bits=4)


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["full", "stopped"])
@pytest.mark.parametrize("at", ["model_folder.copy_other_files", "conversion.measure", "conversion._write_card"])
def test_a_failure_leaves_nothing(
    at: str, error: BaseException, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        assert [path.name.startswith(".out-") for path in tmp_path.iterdir()] == [True]
        raise error

    monkeypatch.setattr(conversion, "measure", lambda *_: None)
    monkeypatch.setattr(conversion, "compare", lambda *_: Cost(0, 0, 0, "", 0, 0, 0))
    monkeypatch.setattr(f"mlx_qwen_embeddings.tools.convert.{at}", fail)
    with pytest.raises(type(error)):
        convert(str(source), tmp_path / "out", bits=4)
    assert list(tmp_path.iterdir()) == []


def test_the_result_survives_a_power_cut(source: Path, tmp_path: Path) -> None:
    with watched_renames() as renames:
        convert(str(source), tmp_path / "out", bits=4, report=False)
    assert [(rename.target, rename.durable) for rename in renames] == [(tmp_path / "out", True)]


def test_a_source_that_does_not_load_is_named_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(source, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelLoadError, match=rf"^{broken}/model\.safetensors is cut short"):
        convert(str(broken), tmp_path / "out", bits=4)
    with pytest.raises(ModelLoadError, match=r"revision='v1' makes no sense"):
        convert(str(source), tmp_path / "out", revision="v1")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_overflow_in_the_chosen_type_is_found(weights: Weights, tmp_path: Path) -> None:
    large = weights | {"layers.0.mlp.down_proj.weight": weights["layers.0.mlp.down_proj.weight"] * 1e6}
    folder = write_checkpoint(tmp_path / "source", large, SHAPE.config())
    with pytest.raises(ConversionError, match="vectors that are not finite: choose another --dtype"):
        convert(str(folder), tmp_path / "out", dtype="float16", report=False)
    convert(str(folder), tmp_path / "out", dtype="bfloat16", report=False)


def test_without_mlx_lm_the_message_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlx_lm.utils", None)
    with pytest.raises(
        MissingExtraError, match=r'Converting a model .*mlx_lm.*pip install "mlx-qwen-embeddings\[convert\]"'
    ):
        convert(str(source), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# The command


def test_the_command_prints_the_report(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said, err = run("convert", str(source), str(out), "--bits", "8", "--group-size", "32", "--no-report")
    sizes = [(folder / "model.safetensors").stat().st_size / 1e6 for folder in (out, source)]
    line = f"8 bits, groups of 32, affine; the rest float32; {sizes[0]:.1f} MB of weights, {sizes[1]:.1f} MB in the source"
    assert (status, said, err) == (0, f"{out}:\n  {line}\n", "")


def test_the_command_as_json(source: Path, tmp_path: Path) -> None:
    status, said, err = run("convert", str(source), str(tmp_path / "out"), "--dtype", "bfloat16", "--json")
    data = json.loads(said)
    assert (status, err) == (0, "")
    assert (data["dtype"], data["packing"], data["target"]) == ("bfloat16", None, str(tmp_path / "out"))
    assert data["cost"]["texts"] == 500
    assert 0.999 < data["cost"]["worst"] <= data["cost"]["mean"] < 1


def test_an_error_of_the_command_is_one_line(tmp_path: Path) -> None:
    status, out, err = run("convert", "nano", str(tmp_path / "out"), "--bits", "7")
    assert (status, out) == (1, "")
    assert err == "mlx-qwen: --bits 7 is not possible in mode 'affine': it is one of 2, 3, 4, 5, 6, 8\n"


def test_the_process_ends_cleanly(source: Path, tmp_path: Path) -> None:
    """MLX aborts a process if a thread ended without clearing its streams, and mlx-lm creates one when it is imported."""
    command = [
        sys.executable,
        "-m",
        "mlx_qwen_embeddings",
        "convert",
        str(source),
        str(tmp_path / "out"),
        "--mode",
        "mxfp4",
    ]
    done = subprocess.run([*command, "--no-report"], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("  4 bits, groups of 32, mxfp4; the rest float32; ")
