"""The torch parts of the embedded model's training, against transformers, sentence-transformers and numpy."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.stats import entropy
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoModel, Qwen3Config, Qwen3Model

from mlx_qwen_embeddings import EmbeddingEngine
from tests.support.medline_files import medline, part
from training import axes, evaluate, initial, lessons, losses, memory, shards, teacher, tokenizer
from training.__main__ import main
from training.config import ModelShape, Recipe, WorkFolder
from training.model import Student
from training.pack import pack
from training.student import Training
from training.turn import take_over

SMALL = ModelShape(hidden_size=384, layers=3, heads=4, kv_heads=2, head_dim=32, feed_forward=96, vocab_size=29_527)
TEXTS = [
    "The harbour freezes in winter.",
    "Bread rises because yeast makes gas, which the dough holds.",
    "a",
    "Which queen was married to her cousin? " * 3,
]


MANY = [f"{text} Number {number}." for number in range(60) for text in TEXTS]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """A work folder with the student's tokenizer and the real teacher's answers for 240 texts."""
    made = WorkFolder(tmp_path_factory.mktemp("work"))
    folder = teacher.find_packaged()
    tokenizer.from_teacher(folder / "tokenizer.json").save(str(made.tokenizer))
    teacher.teach(teacher.load(folder), [MANY], made.shards)
    return made


@pytest.fixture
def taught(work: WorkFolder) -> lessons.Lessons:
    masters = Tokenizer.from_file(str(teacher.find_packaged() / "tokenizer.json"))
    made = lessons.Lessons(work.shards, Tokenizer.from_file(str(work.tokenizer)), masters)
    made.rotation = axes.principal(made.shards)
    return made


def a_student(shape: ModelShape = SMALL) -> Student:
    rng = np.random.default_rng(0)
    made = initial.build(shape, lessons.unit(rng.normal(size=(shape.vocab_size, shape.hidden_size)).astype(np.float32)))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("proj.weight"):
                weight.normal_(std=0.08)
    return made


def test_the_student_equals_transformers() -> None:
    student = a_student()
    shape = student.shape
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        rope_theta=shape.rope_theta,
        rms_norm_eps=shape.norm_eps,
        attention_bias=False,
    )
    reference = Qwen3Model(config).eval()
    reference.load_state_dict(student.state_dict())
    sizes = [3, 17, 9]
    rows = [torch.randint(0, 1000, (size,)) for size in sizes]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.inference_mode():
        states, vectors = student(ids, torch.tensor(sizes) - 1)
        for row, state, vector in zip(rows, states, vectors, strict=True):
            said = reference(row[None], output_hidden_states=True)
            torch.testing.assert_close(vector, said.last_hidden_state[0, -1], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(state[: len(row)], said.hidden_states[-2][0], atol=2e-5, rtol=1e-4)


def test_the_engine_on_the_packed_student_equals_torch(work: WorkFolder, tmp_path: Path) -> None:
    student = a_student()
    save_file(student.state_dict(), tmp_path / "student.safetensors")
    pack(tmp_path / "student.safetensors", work.tokenizer, tmp_path / "out", bits=32)
    read = Tokenizer.from_file(str(work.tokenizer))
    with EmbeddingEngine(str(tmp_path / "out")) as engine, torch.inference_mode():
        found = engine.embed_documents(TEXTS)
        for text, vector in zip(TEXTS, found, strict=True):
            ids = torch.tensor([read.encode(text).ids])
            wanted = student(ids, torch.tensor([ids.shape[1] - 1]))[1][0]
            np.testing.assert_allclose(vector, torch.nn.functional.normalize(wanted, dim=0).numpy(), atol=1e-5)


def test_the_teacher_equals_sentence_transformers_and_transformers(work: WorkFolder) -> None:
    folder = teacher.find_packaged()
    said = teacher.taught(teacher.load(folder), TEXTS)
    reference = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert np.einsum("nd,nd->n", said.vectors.astype(np.float32), reference).min() > 0.999  # bfloat16
    model, read = AutoModel.from_pretrained(folder).eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
    read.no_padding()
    ends = said.sizes.astype(int).cumsum()
    for text, start, end in zip(TEXTS, ends - said.sizes, ends, strict=True):
        ids = read.encode(text).ids
        assert said.ids[start:end].tolist() == ids[1:-1]
        with torch.inference_mode():
            states = lessons.unit(model(torch.tensor([ids])).last_hidden_state[0, 1:-1].numpy())
        assert np.einsum("nd,nd->n", lessons.unit(said.states[start:end].astype(np.float32)), states).min() > 0.99


def test_existing_shards_are_not_made_again(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "taught", lambda *_: pytest.fail("a shard was made again"))
    teacher.teach(teacher.load(teacher.find_packaged()), [MANY], work.shards)


def test_the_loss_equals_numpy() -> None:
    rng = np.random.default_rng(1)
    known, wanted = rng.normal(size=(12, 384)), unit(rng.normal(size=(12, 384)))
    vectors, targets = known[:7], wanted[:7]
    earlier = memory.nothing(384, "cpu")
    earlier.keep(torch.tensor(known[7:]), torch.tensor(wanted[7:]))
    loss = (1 - (unit(vectors) * targets).sum(1)).mean()
    for dimensions, weight in losses.SIMILARITY_WEIGHTS:
        short = unit(vectors[:, :dimensions])
        loss += weight * ((short @ short.T - targets @ targets.T) ** 2).mean()
    for dimensions, weight in losses.NEIGHBOUR_WEIGHTS:
        loss += weight * np.mean([neighbours_lost(place, known[:, :dimensions], wanted) for place in range(7)])
    assert losses.of_vectors(torch.tensor(vectors), torch.tensor(targets), earlier).item() == pytest.approx(loss)
    assert losses.of_states(torch.tensor(targets), torch.tensor(3 * targets)).item() == pytest.approx(0, abs=1e-9)
    above = np.triu_indices(7, 1)
    short = unit(vectors[:, :64])
    correlation = np.corrcoef((short @ short.T)[above], (targets @ targets.T)[above])[0, 1]
    assert losses.agreement(torch.tensor(vectors), torch.tensor(targets), 64) == pytest.approx(correlation)


def neighbours_lost(place: int, vectors: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return the Kullback-Leibler divergence of one text's similarities to the others."""
    others = np.arange(len(targets)) != place
    sides = unit(vectors)[others] @ unit(vectors)[place], targets[others] @ targets[place]
    ours, theirs = (np.exp(20 * side) for side in sides)
    return float(entropy(theirs / theirs.sum(), ours / ours.sum()))


def all_neighbours_lost(vectors: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float(np.mean([neighbours_lost(place, vectors, targets) for place in range(len(targets))]))


def test_the_memory_holds_the_latest_texts_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT", 3)
    kept = memory.nothing(1, "cpu")
    for first in (0.0, 2.0):
        vectors = torch.tensor([[first], [first + 1]], requires_grad=True)
        kept.keep(vectors, -vectors.detach())
    assert kept.vectors.tolist() == [[1], [2], [3]]
    assert kept.targets.tolist() == [[-1], [-2], [-3]]
    assert not kept.vectors.requires_grad


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def of_a_kind(texts: int, first: int) -> shards.Shard:
    """Return a shard of vectors that differ only along a hundred axes, starting at ``first``."""
    rng = np.random.default_rng(first)
    vectors = np.zeros((texts, 384))
    vectors[:, first : first + 100] = rng.normal(size=(texts, 100))
    none = np.zeros(0, np.uint16), np.zeros(0, np.int8), np.zeros(0, np.float16)
    return shards.Shard(np.ones(texts, np.uint16), *none, unit(vectors).astype(np.float16))


def test_learnt_axes_keep_cosines_and_serve_rare_texts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    many, few, one = of_a_kind(900, 0), of_a_kind(90, 200), of_a_kind(1, 250)
    principal, learnt = axes.principal([many, few, one]), axes.learnt([many, few, one], steps=20)
    np.testing.assert_allclose(learnt.T @ learnt, np.eye(384), atol=1e-5)
    numerous, rare = (unit(kind.vectors[:90].astype(np.float64)) for kind in (many, few))
    assert all_neighbours_lost((numerous @ learnt)[:, :128], numerous) < 0.01
    assert all_neighbours_lost((rare @ learnt)[:, :128], rare) < 0.45
    assert all_neighbours_lost((rare @ principal)[:, :128], rare) > 0.6
    # A single text teaches nothing. Its principal axes are not unique, so take those of all.
    monkeypatch.setattr(axes, "principal", lambda _: principal)
    np.testing.assert_allclose(axes.learnt([one], steps=20), principal, atol=1e-5)


def test_a_rotated_student_gives_the_same_vectors_on_other_axes(taught: lessons.Lessons, tmp_path: Path) -> None:
    earlier = trained(taught, [2], tmp_path / "earlier")
    with torch.no_grad():
        earlier.student.norm.weight.fill_(0.7)  # differs between axes, so it can only be matched approximately
    earlier.save()
    np.save(earlier.work.rotation, taught.rotation)
    turn = torch.linalg.qr(torch.randn(384, 384, generator=torch.Generator().manual_seed(0)))[0]
    taught.rotation = taught.rotation @ turn.numpy()
    (tmp_path / "later").mkdir()
    later = Training(a_student(), taught, Recipe(tokens=300, compile=False), WorkFolder(tmp_path / "later"), "cpu")
    take_over(later, earlier.work)
    batch = taught.batch(taught.held_in[-8:])
    inputs = torch.from_numpy(batch.ids), torch.from_numpy(batch.last)
    with torch.inference_mode():
        for before, after in zip(earlier.student(*inputs), later.student(*inputs), strict=True):
            torch.testing.assert_close(before @ turn, after, atol=2e-4, rtol=1e-3)
    assert later.progress == replace(earlier.progress, began=2)
    assert later.progress.own_steps == 0  # its optimisers warm up again
    assert later.work.log.read_text() == earlier.work.log.read_text()
    later.run(lambda step: 1.0 if step >= 3 else 0.0)
    assert later.progress.step == 3


def test_usual_states_are_the_mean_of_the_teachers_states(taught: lessons.Lessons, work: WorkFolder) -> None:
    alone = np.random.default_rng(2).normal(size=(30_522, 384)).astype(np.float32)
    found = taught.usual_states(alone)
    states = np.load(next(work.shards.glob("shard-*")) / "states.npy").astype(np.float64)
    ids = np.load(next(work.shards.glob("shard-*")) / "ids.npy")
    for token in (ids[0], 103):
        wanted = unit(10 * unit(alone[[token]].astype(float)) + unit(states)[ids == token].sum(0)) @ taught.rotation
        np.testing.assert_allclose(found[token], wanted[0], atol=1e-5)


def test_the_first_student_averages_its_entries(taught: lessons.Lessons) -> None:
    entries = lessons.unit(np.random.default_rng(3).normal(size=(SMALL.vocab_size, 384)).astype(np.float32))
    entries[taught.eos] = 0
    shape = ModelShape(vocab_size=SMALL.vocab_size)
    batch = taught.batch(taught.held_in[-8:])
    with torch.inference_mode():
        _, vectors = initial.build(shape, entries)(torch.from_numpy(batch.ids), torch.from_numpy(batch.last))
    for ids, last, vector in zip(batch.ids, batch.last, vectors.numpy(), strict=True):
        mean = entries[ids[:last]].mean(0)
        assert vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean) > 0.6


def _share_done(step: int, stop: int) -> float:
    return 1.0 if step >= stop else 0.0


def trained(taught: lessons.Lessons, stops: list[int], folder: Path) -> Training:
    """Train up to each stop in a run of its own, which continues from the checkpoint of the one before."""
    place = WorkFolder(folder)
    folder.mkdir()
    for stop in stops:
        training = Training(a_student(), taught, Recipe(tokens=300, compile=False), place, "cpu")
        if place.checkpoint.exists():
            torch.nn.init.zeros_(training.student.norm.weight)  # the trained weights must come from the checkpoint
            training.resume(place.checkpoint)
        training.run(partial(_share_done, stop=stop))
    return training


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    taught: lessons.Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.student.WARMUP_STEPS", 1)  # after these, batches are compared with the memory
    whole = trained(taught, [16], tmp_path / "whole")  # more than one pass
    parts = trained(taught, [4, 16], tmp_path / "parts")
    assert whole.progress.step == parts.progress.step == 16
    assert len(whole.memory.vectors) > 200
    torch.testing.assert_close(whole.memory.vectors, parts.memory.vectors, atol=1e-5, rtol=1e-4)
    for (name, one), (_, other) in zip(whole.student.named_parameters(), parts.student.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=name)


def test_a_checkpoint_of_other_axes_or_batches_is_refused(taught: lessons.Lessons, tmp_path: Path) -> None:
    made = trained(taught, [1], tmp_path / "run")
    other = Training(a_student(), taught, Recipe(tokens=299, compile=False), made.work, "cpu")
    with pytest.raises(ValueError, match=r"comes of other shards, another rotation\.npy or other --tokens"):
        other.resume(made.work.checkpoint)
    taught.rotation = taught.rotation[:, ::-1].copy()
    with pytest.raises(ValueError, match="comes of other shards"):
        made.resume(made.work.checkpoint)


def test_resuming_removes_later_steps_from_the_log(taught: lessons.Lessons, tmp_path: Path) -> None:
    first = trained(taught, [2], tmp_path / "run")
    lost = [{"step": step, "loss_vectors": 1.0} for step in (1, 2, 3, 50)]
    first.work.log.write_text("".join(json.dumps(line) + "\n" for line in lost))
    first.run(lambda _: 1.0)
    assert [json.loads(line)["step"] for line in first.work.log.read_text().splitlines()] == [1, 2, 2]


def test_the_steps_of_training_run_in_order_and_resume(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"{text} Number {number}.\n" for number in range(10) for text in TEXTS))
    work = WorkFolder(tmp_path / "work")
    main(["tokenizer", str(work.root)])
    terms, words = tmp_path / "hp.obo", tmp_path / "med.dic"
    terms.write_text('format-version: 1.2\n\n[Term]\nname: Frostbite\nsynonym: "Congelation" EXACT []\n')
    words.write_text("1\nchilblain/S\n")
    articles = medline(tmp_path / "pubmed.xml.gz", [("Ice", part("Cold."), "eng")])
    medicine = ["--terms", str(terms), "--words", str(words), "--abstracts", str(articles), "--without", "--shards", "1"]
    main(["teacher", str(corpus), str(work.root), *medicine])
    sizes = [len(shards.load(folder).sizes) for folder in shards.stored(work.shards)]
    assert sizes == [2, 40 + 1 + 2]  # a title and a whole article; the corpus, synonyms and a repeated word
    for steps in (1, 2):
        main(["student", str(work.root), "--steps", str(steps), "--tokens", "200", "--no-compile"])
    assert work.picture.read_bytes().startswith(b"\x89PNG")
    end = json.loads(work.log.read_text().splitlines()[-1])
    assert (end["step"], end["device"].endswith("CPU cores")) == (2, True)
    main(["pack", str(work.student), str(work.tokenizer), str(tmp_path / "out"), "--table-bits", "5"])
    with EmbeddingEngine(str(tmp_path / "out")) as engine:
        assert engine.embed_documents(TEXTS).shape == (4, 384)


def test_bm25_ranks_and_compares_by_common_words(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [json.dumps({"_id": str(place), "text": text}) for place, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "winter harbour"}))
    (folder / "qrels.tsv").write_text("query\tdocument\tscore\nq\t0\t1\n")
    assert evaluate.lexical(folder) == 1
    pairs = ["score\ta\tb", "5\tred boats\tred boats sail", "1\tred boats\tgreen hills", "0\tthe and of\tgreen hills"]
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs))
    assert evaluate.lexical(tmp_path / "pairs.tsv") > 0.8


def test_the_student_approaches_the_teacher(
    taught: lessons.Lessons, work: WorkFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.schedule.WARMUP_STEPS", 1)
    before = Training(a_student(), taught, Recipe(tokens=300, compile=False), work, "cpu").scores()
    after = trained(taught, [15], tmp_path / "run")
    assert after.scores()["cosine"] > before["cosine"] + 0.05
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["cosine"] == pytest.approx(after.scores()["cosine"], abs=1e-4)
