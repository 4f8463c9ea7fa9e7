"""Scientific texts beside the corpus, which has few: titles and abstracts of MEDLINE's files."""

import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from training.config import SEED

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
SHORTEST = 40
WHOLE = 10_000


def articles(path: Path) -> Iterator[tuple[str, str]]:
    """Yield title and abstract of each English article of a file of MEDLINE/PubMed, .xml.gz, that has both.

    See https://www.nlm.nih.gov/bsd/licensee/elements_descriptions.html for the format.
    """
    with gzip.open(path) as file:
        for _, element in ET.iterparse(file):  # noqa: S314 - a file of the National Library of Medicine's
            if element.tag != "PubmedArticle":
                continue
            article = element.find("MedlineCitation/Article")
            if article is not None and article.findtext("Language") == "eng":
                title = _text(article.findall("ArticleTitle"))
                abstract = _text(article.findall("Abstract/AbstractText"))
                if title and abstract:
                    yield title, abstract
            element.clear()


def _text(parts: Iterable[ET.Element]) -> str:
    """Their text without the marks of italics and formulas."""
    return " ".join(" ".join("".join(part.itertext()) for part in parts).split())


def texts(paths: Iterable[Path], unwanted: Iterable[Path], whole: int = WHOLE) -> list[str]:
    """Return all titles, conclusions (the abstracts' last sentences) and some titles with their abstracts, shuffled.

    Args:
        paths: Files of MEDLINE.
        unwanted: What is to be measured on: JSON lines with titles, as BEIR's `corpus.jsonl`.
        whole: How many articles are taken whole, at random.
    """
    measured = {_plain(json.loads(line)["title"]) for path in unwanted for line in path.open(encoding="utf-8")}
    found = sorted({article for path in paths for article in articles(path) if _plain(article[0]) not in measured})
    conclusions = [SENTENCE_END.split(abstract)[-1] for _, abstract in found]
    taken = [title for title, _ in found]
    taken += [sentence for sentence in conclusions if len(sentence) >= SHORTEST]
    taken += [f"{title} {abstract}" for title, abstract in random.Random(SEED).sample(found, min(whole, len(found)))]
    random.Random(SEED).shuffle(taken)
    return taken


def _plain(title: str) -> str:
    return "".join(letter for letter in title.lower() if letter.isalnum())
