"""Test the demo: both frameworks find the right passages, which share no word with the questions, in any terminal."""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from examples import demo
from examples.demo import QUESTIONS, Passages, Run, load_passages, verdict
from mlx_qwen_embeddings import EmbeddingEngine

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
def passages() -> Passages:
    return load_passages()


@pytest.fixture(scope="module")
def scores(passages: Passages) -> Iterator[NDArray[np.float32]]:
    """Yield the cosine of every question (rows) with every passage (columns), from a separate engine."""
    with EmbeddingEngine("nano") as engine:
        documents = engine.embed_documents([passage["text"] for passage in passages.values()])
        yield engine.embed_queries(list(QUESTIONS)) @ documents.T


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_shares_a_content_word_with_its_answer(question: str, passages: Passages) -> None:
    answer = passages[QUESTIONS[question]]["text"]
    assert len(content_words(question)) >= 2
    assert content_words(question) & content_words(answer) == set()


@pytest.mark.parametrize(
    ("one", "other"),
    [("Birds flying", "a bird flies"), ("evicted", "to evict"), ("He's slow.", "slowly"), ("money's", "money")],
)
def test_content_words_ignore_endings(one: str, other: str) -> None:
    assert content_words(one) & content_words(other)


def test_the_right_passage_wins_by_a_margin_among_many(scores: NDArray[np.float32], passages: Passages) -> None:
    names = list(passages)
    for (question, answer), row in zip(QUESTIONS.items(), scores, strict=True):
        order = np.argsort(-row)
        assert names[order[0]] == answer
        assert row[order[0]] - row[order[1]] > 0.03, f"{question}: {names[order[1]]} comes close"


def test_similar_subjects_compete(passages: Passages) -> None:
    rivals = {"tea", "sleep", "eniac", "battery", "wifi", "sun-tzu", "gettysburg", "rent", "contract", "penguin", "bees"}
    assert rivals <= passages.keys()
    written = [
        passage["source"] for passage in passages.values() if passage["source"].startswith("written for this demo: ")
    ]
    assert min(map(written.count, set(written))) >= 4
    assert len(set(written)) >= 9


def test_passages_are_distinct_short_and_have_a_source(passages: Passages) -> None:
    assert len({passage["text"] for passage in passages.values()}) == len(passages) >= 70
    assert all(passage["source"].strip() and 60 <= len(passage["text"]) <= 1500 for passage in passages.values())


@pytest.mark.parametrize("columns", [80, 120, 20, 500])
def test_it_prints_the_five_answers_and_fits_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, passages: Passages
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert demo.main([]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    answers, closing = printed.split("LangChain: ")
    assert max(map(len, answers.splitlines())) <= max(60, min(columns, 120))
    assert max(map(len, closing.splitlines())) <= 80
    assert re.match(
        rf"{len(passages)} passages embedded and stored in \d+\.\d\d s, \d+\.\d ms per question\nLlamaIndex: ", closing
    )
    assert (
        "LangChain and LlamaIndex found the same passages with the same scores.\nModel: nano, computed on the " in closing
    )
    words = " ".join(answers.split())
    for question, answer in QUESTIONS.items():
        assert f"{question} 0." in words
        assert passages[answer]["text"][:40] in words


def test_your_own_questions_replace_the_five(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--question", "How do vaccines protect us?", "--question", "Which peak is the highest?"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "immune" in printed
    assert "8,849 metres" in printed
    assert "caffeine" not in printed


@pytest.mark.parametrize(
    ("model", "device", "named"), [("nanoo", "auto", "'nano'"), ("", "auto", "model"), ("nano", "tpu", "MLX_QWEN_DEVICE")]
)
def test_a_wrong_model_or_setting_prints_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str, device: str, named: str
) -> None:
    monkeypatch.setenv("MLX_QWEN_DEVICE", device)
    assert demo.main(["--model", model]) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    assert named in errors


RUN = Run("A", 1.25, 0.002, [("tea", 0.5), ("sleep", 0.25)])


@pytest.mark.parametrize(
    ("hits", "words"),
    [([("tea", 0.5), ("sleep", 0.5)], "differ by 0.250"), ([("tea", 0.5), ("rent", 0.25)], "different passages")],
)
def test_a_disagreement_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hits: list[demo.Hit], words: str
) -> None:
    assert verdict(RUN, RUN) == (True, "A and A found the same passages with the same scores.")
    runs = iter([RUN, dataclasses.replace(RUN, framework="B", hits=hits)])
    monkeypatch.setattr(demo, "ask", lambda *_: next(runs))
    assert demo.main(["--question", "one", "--question", "two"]) == 1
    assert words in capsys.readouterr().out


def test_as_a_program_offline_without_a_home_in_ascii(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLX_QWEN_", "HF_"))}
    # Nothing listens at this proxy: any request would fail.
    environment |= {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    environment |= {"PYTHONIOENCODING": "ascii", "COLUMNS": "80", "MLX_QWEN_MODEL": "no-such-model"}
    command = [sys.executable, demo.__file__]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"fear is fear" in b" ".join(done.stdout.split())
    assert done.stderr == b""
    assert not any(tmp_path.rglob("*.safetensors"))
