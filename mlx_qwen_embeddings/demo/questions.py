"""What the demo asks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the passage that answers it, in other words.

    Attributes:
        text: The question.
        answer: ``id`` of the passage.
    """

    text: str
    answer: str


QUESTIONS = (
    Question("Why does my head hurt when I skip my morning coffee?", "caffeine"),
    Question("My computer has become slow. What can I do?", "laptop"),
    Question("Who said that we must not be afraid?", "roosevelt"),
    Question("Can I be evicted from my apartment?", "tenant"),
    Question("Why do birds fly south in winter?", "migration"),
)
"""None shares a content word with its answer: a search for words finds none of the five."""
