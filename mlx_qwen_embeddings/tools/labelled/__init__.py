"""The labelled set inside the package: 150 paragraphs of Wikipedia and 350 questions about them."""

import json
from pathlib import Path

LABELLED = Path(__file__).parent
"""In BEIR's layout; its README says where it is from."""


def passages() -> list[str]:
    """Give the different paragraphs."""
    return _texts("corpus.jsonl")


def questions() -> list[str]:
    """Give the different questions."""
    return _texts("queries.jsonl")


def _texts(name: str) -> list[str]:
    lines = (LABELLED / name).read_text("utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["text"] for line in lines))
