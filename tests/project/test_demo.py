"""The demo: the right passages win, for both frameworks, without a word in common, in any terminal."""

import dataclasses
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine, get_engine
from mlx_qwen_embeddings.demo import __main__ as demo
from mlx_qwen_embeddings.demo.passages import Passage, cut, load_passages
from mlx_qwen_embeddings.demo.questions import QUESTIONS, Question
from mlx_qwen_embeddings.demo.report import answers, times
from mlx_qwen_embeddings.demo.runs import Hit, Run, disagreement

PROJECT = Path(demo.__file__).parents[2]

UNIMPORTANT = (
    "a about all am an and any are as at be been but by can could did do does for from had has have he her him "
    "his how i if in into is it its may me more most my no not of on once one or our out she should so some than "
    "that the their them then there they this those to too up us was we were what when where which who whom why "
    "will with would you your"
)
STOP_WORDS = frozenset(UNIMPORTANT.split())
SUFFIXES = ("ingly", "edly", "ing", "ies", "ied", "est", "ed", "er", "es", "ly", "s", "y", "e")


def stem(word: str) -> str:
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word.removesuffix(suffix)
    return word


def content_words(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", re.sub(r"['\u2019]s\b", "", text.lower()))
    return {stem(word) for word in words if word not in STOP_WORDS}


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return load_passages()


@pytest.fixture(scope="module")
def scores(passages: list[Passage]) -> Iterator[np.ndarray]:
    """Cosine of every question (rows) with every passage (columns), from an engine of its own."""
    with EmbeddingEngine("nano") as engine:
        documents = engine.embed_documents([passage.text for passage in passages])
        yield engine.embed_queries([question.text for question in QUESTIONS]) @ documents.T


@pytest.fixture(scope="module", autouse=True)
def close_shared_engine() -> Iterator[None]:
    yield
    get_engine("nano").close()


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.answer)
def test_no_question_shares_a_content_word_with_its_answer(question: Question, passages: list[Passage]) -> None:
    (answer,) = (passage for passage in passages if passage.id == question.answer)
    assert len(content_words(question.text)) >= 2
    assert content_words(question.text) & content_words(answer.text) == set()


@pytest.mark.parametrize(
    ("one", "other"),
    [("Birds flying", "a bird flies"), ("evicted", "to evict"), ("He's slow.", "slowly"), ("money's", "money")],
)
def test_the_comparison_sees_through_endings(one: str, other: str) -> None:
    assert content_words(one) & content_words(other)


def test_the_right_passage_wins_by_a_margin_among_many(scores: np.ndarray, passages: list[Passage]) -> None:
    for question, row in zip(QUESTIONS, scores, strict=True):
        order = np.argsort(-row)
        assert passages[order[0]].id == question.answer
        assert row[order[0]] - row[order[1]] > 0.03, f"{question.text}: {passages[order[1]].id} comes close"


def test_neighbours_of_each_subject_compete(passages: list[Passage]) -> None:
    ids = {passage.id for passage in passages}
    rivals = [
        {"tea", "sleep"},
        {"eniac", "battery", "wifi"},
        {"sun-tzu", "gettysburg"},
        {"rent", "contract"},
        {"penguin", "bees"},
    ]
    assert all(rival <= ids for rival in rivals)
    written = [passage.source for passage in passages if passage.source.startswith("written for this demo: ")]
    assert min(map(written.count, set(written))) >= 4
    assert len(set(written)) >= 9


def test_passages_are_distinct_short_and_sourced(passages: list[Passage]) -> None:
    assert len({passage.id for passage in passages}) == len({passage.text for passage in passages}) == len(passages) >= 70
    assert all(passage.source.strip() and 60 <= len(passage.text) <= 1500 for passage in passages)
    assert any(passage.source.startswith("model card of nano, ") for passage in passages)


def test_the_notes_stay_behind_the_answers_as_they_are_now(scores: np.ndarray) -> None:
    notes = [passage.text for passage in cut((PROJECT / "README.md").read_text("utf-8"), "README")]
    assert len(notes) >= 15
    with EmbeddingEngine("nano") as engine:
        rivals = engine.embed_queries([question.text for question in QUESTIONS]) @ engine.embed_documents(notes).T
    assert (scores.max(axis=1) - rivals.max(axis=1) > 0.03).all()


def test_cutting_keeps_prose_and_drops_the_rest() -> None:
    sentence = "This sentence is long enough to be kept as a passage of its own, since it has **over** eighty characters."
    item = "An item of a list is a passage too, with its [link](https://example.org) reduced to the words that are shown."
    markdown = (
        f"---\nlicense: x\n---\n# Title\n\n{sentence}\n\n```python\n{sentence}\n```\n\n## Part `two`\n\ntoo short\n\n"
    )
    markdown += f"| {sentence} |\n|---|\n\n<!-- {sentence} -->\n- {item}\n- {sentence}\n  {sentence}\n"
    plain = sentence.replace("**", "")
    assert list(cut(markdown, "notes")) == [
        Passage("notes 1", "notes, Title", plain),
        Passage("notes 2", "notes, Part two", item.replace("[link](https://example.org)", "link")),
        Passage("notes 3", "notes, Part two", f"{plain} {plain}"),
    ]


@pytest.mark.parametrize("columns", [80, 120, 20, 500])
def test_it_prints_the_five_answers_and_fits_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, passages: list[Passage]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert demo.main([]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert max(map(len, printed.splitlines())) <= max(60, min(columns, 120))
    assert f"{len(passages)} passages on unrelated subjects, model nano" in printed
    words = " ".join(printed.split())
    assert "LangChain and LlamaIndex found the same passages with the same scores." in words
    assert words.endswith("python -m mlx_qwen_embeddings.demo --model small")
    assert re.search(r"\n +LangChain +LlamaIndex\nload the model +\d+\.\d\d s +shared\n", printed)
    by_id = {passage.id: passage for passage in passages}
    for question in QUESTIONS:
        assert by_id[question.answer].text.split()[0] in words
        source = f"[{by_id[question.answer].source}]".replace(" ", "")
        assert source in re.sub(r"\s", "", second_column(printed))


def second_column(printed: str) -> str:
    rule = next(line for line in printed.splitlines() if set(line) == {"-", " "})
    start, end = rule.index(" -") + 1, rule.rindex(" -")
    return "\n".join(line[start:end] for line in printed.splitlines())


def test_own_questions_replace_the_five(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--question", "How do vaccines protect us?", "--question", "Which peak is the highest?"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "immune" in printed
    assert "8,849 metres" in printed
    assert "caffeine" not in printed


def test_an_unknown_model_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--model", "nanoo"]) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    assert "'nano'" in errors


@pytest.mark.parametrize(("model", "device"), [("", "auto"), ("nano", "tpu")])
def test_what_is_no_setting_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str, device: str
) -> None:
    monkeypatch.setenv("MLX_QWEN_DEVICE", device)
    assert demo.main(["--model", model]) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    assert ("model" if not model else "MLX_QWEN_DEVICE") in errors


RUN = Run("A", 1.25, 0.002, [Hit(Passage("1", "book", "a text"), 0.5), Hit(Passage("2", "book", "another"), 0.25)])


def test_disagreement_is_measured_and_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    off = dataclasses.replace(RUN, hits=[RUN.hits[0], Hit(RUN.hits[1].passage, 0.5)])
    other = dataclasses.replace(RUN, hits=[RUN.hits[0], Hit(Passage("3", "book", "a third"), 0.25)])
    assert disagreement(RUN, RUN) == 0
    assert disagreement(RUN, off) == 0.25
    assert disagreement(RUN, other) == float("inf")
    for second, words in ((off, "differ by 0.250"), (other, "different passages")):
        runs = iter([RUN, second])
        monkeypatch.setattr(demo, "run", lambda *_, runs=runs: next(runs))
        assert demo.main(["--question", "one", "--question", "two"]) == 1
        assert words in capsys.readouterr().out


def test_the_tables_by_the_letter() -> None:
    assert answers(["Is it?", "Is it really so, and why?"], RUN, 40) == [
        "question    best passage           score",
        "----------  ---------------------  -----",
        "Is it?      a text                  0.50",
        "            [book]",
        "",
        "Is it       another                 0.25",
        "really so,  [book]",
        "and why?",
        "",
    ]
    assert times(0.5, 2, [RUN, dataclasses.replace(RUN, framework="Bee")]) == [
        "                               A       Bee",
        "load the model                 0.50 s  shared",
        "embed and store 2 passages     1.25 s  1.25 s",
        "answer a question, on average  2.0 ms  2.0 ms",
    ]


def test_as_a_program_offline_without_a_home_in_ascii_within_ten_seconds(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLX_QWEN_", "HF_"))}
    # A proxy that nobody serves: any request would fail.
    environment |= {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    environment |= {"PYTHONIOENCODING": "ascii", "COLUMNS": "80", "MLX_QWEN_MODEL": "no-such-model"}
    start = time.perf_counter()
    command = [sys.executable, "-m", "mlx_qwen_embeddings.demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr.decode()
    assert b"fear is fear" in b" ".join(done.stdout.split())
    assert done.stderr == b""
    assert seconds < 30, "10 s on an idle machine; three times that allows for a busy one"
    assert not any(tmp_path.rglob("*.safetensors"))


def test_it_writes_to_a_stream_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    assert demo.main(["--question", "How do vaccines protect us?"]) == 0
    assert "immune" in out.getvalue()
