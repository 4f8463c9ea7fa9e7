"""What a framework found, and how long it took; the same shape for both, so that they can be compared."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mlx_qwen_embeddings.demo.passages import Passage


@dataclass(frozen=True, slots=True)
class Hit:
    """The best passage for a question.

    Attributes:
        passage: The passage.
        score: Cosine similarity.
    """

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Run:
    """One framework's answers.

    Attributes:
        framework: Its name.
        index_seconds: Time to embed and store all passages.
        question_seconds: Mean time to embed a question and find its passage.
        hits: One for each question, in order.
    """

    framework: str
    index_seconds: float
    question_seconds: float
    hits: list[Hit]


@dataclass(slots=True)
class Timer:
    """Seconds that a ``with`` block took."""

    seconds: float = field(default=0.0)


@contextmanager
def timed() -> Iterator[Timer]:
    """Time the block."""
    timer, start = Timer(), time.perf_counter()
    yield timer
    timer.seconds = time.perf_counter() - start


Find = Callable[[str], Hit]
Build = Callable[[str, Sequence[Passage]], Find]


def run(framework: str, build: Build, model: str, passages: Sequence[Passage], questions: Sequence[str]) -> Run:
    """Store the passages, then ask the questions.

    Args:
        framework: Name to show.
        build: Stores passages in the framework's own index and gives its search for the best one.
        model: Alias, Hub name or local folder.
        passages: What to search.
        questions: What to ask, at least one.
    """
    with timed() as indexing:
        find = build(model, passages)
    with timed() as asking:
        hits = [find(question) for question in questions]
    return Run(framework, indexing.seconds, asking.seconds / len(questions), hits)


def disagreement(one: Run, other: Run) -> float:
    """Give the largest difference between the scores of two runs; infinity where they found different passages."""
    pairs = list(zip(one.hits, other.hits, strict=True))
    if any(a.passage != b.passage for a, b in pairs):
        return float("inf")
    return max(abs(a.score - b.score) for a, b in pairs)
