"""Reopen every store with 2,000 passages, search it, filter, and delete."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.stores.kinds import KINDS, every
from tests.stores.passages import QUESTIONS, Passage
from tests.stores.place import Place

Scores = dict[str, np.ndarray]
Built = Callable[[str], Place]

ROUNDING = 1e-5


def are_the_best(found: Sequence[int], scores: np.ndarray, allowed: Sequence[int]) -> bool:
    """Return whether these are the five best of the allowed rows, in order, apart from rounding."""
    best = np.sort(scores[list(allowed)])[::-1][: len(found)]
    return len(set(found)) == 5 and set(found) <= set(allowed) and bool(np.abs(scores[list(found)] - best).max() < ROUNDING)


@every
def test_a_reopened_store_finds_the_five_best(name: str, built: Built, corpus: list[Passage], scores: Scores) -> None:
    with KINDS[name](built(name), {}) as store:
        found = {question: store.search(question) for question in QUESTIONS}
    everywhere = range(len(corpus))
    assert [question for question in QUESTIONS if not are_the_best(found[question], scores[question], everywhere)] == []


@every
def test_search_within_one_page(name: str, built: Built, corpus: list[Passage], scores: Scores) -> None:
    pages = ("compound", "decimal", "types")
    with KINDS[name](built(name), {}) as store:
        if name == "LlamaIndex FAISS":
            with pytest.raises(ValueError, match="Metadata filters not implemented"):
                store.search(QUESTIONS[0], pages[0])
            return
        for page in pages:
            allowed = [row for row, passage in enumerate(corpus) if passage.page == page]
            for question in QUESTIONS[:4]:
                assert are_the_best(store.search(question, page), scores[question], allowed)


@every
def test_deleted_passages_are_not_found_again(name: str, built: Built, corpus: list[Passage], scores: Scores) -> None:
    place = built(name)
    question = QUESTIONS[0]
    with KINDS[name](place, {}) as store:
        gone = store.search(question)[:3]
        store.delete(gone)
    with KINDS[name](place, {}) as store:
        found = store.search(question)
    assert are_the_best(found, scores[question], [row for row in range(len(corpus)) if row not in gone])
