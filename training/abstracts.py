"""Read scientific texts from MEDLINE files, titles and abstracts, because the corpus has few."""

import gzip
import json
import random
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from training.config import SEED
from training.reading import reading

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
SHORTEST = 40
WHOLE = 10_000


def articles(path: Path) -> Iterator[tuple[str, str]]:
    """Yield title and abstract of each English article in a MEDLINE/PubMed file, .xml.gz, that has both.

    See https://www.nlm.nih.gov/bsd/licensee/elements_descriptions.html for the format.

    Raises:
        ValueError: If the file is something else.
    """
    with reading(path, "a file of MEDLINE, .xml.gz"), gzip.open(path) as file:
        for _, element in ET.iterparse(file):  # noqa: S314 - a file of the National Library of Medicine
            if element.tag == "PubmedArticle":
                yield from _of(element.find("MedlineCitation/Article"))
                element.clear()


def _of(article: ET.Element | None) -> Iterator[tuple[str, str]]:
    if article is None or article.findtext("Language") != "eng":
        return
    title, abstract = _text(article.findall("ArticleTitle")), _text(article.findall("Abstract/AbstractText"))
    if title and abstract:
        yield title, abstract


def _text(parts: Iterable[ET.Element]) -> str:
    """Return the text without the markup of italics and formulas."""
    return " ".join(" ".join("".join(part.itertext()) for part in parts).split())


def texts(paths: Collection[Path], unwanted: Iterable[Path], whole: int = WHOLE) -> list[str]:
    """Return all titles, conclusions (the abstracts' last sentences) and some titles with their abstracts, shuffled.

    Args:
        paths: Files of MEDLINE.
        unwanted: JSON lines with titles to leave out, such as BEIR's `corpus.jsonl`, because they are evaluated on.
        whole: How many articles, chosen at random, to take with their whole abstract.

    Raises:
        ValueError: If a file is something else.
    """
    measured = {title for path in unwanted for title in titles(path)}
    found = sorted({article for path in paths for article in articles(path) if _letters(article[0]) not in measured})
    conclusions = [SENTENCE_END.split(abstract)[-1] for _, abstract in found]
    if paths and not found:
        raise ValueError(f"{', '.join(map(str, paths))}: no article in English with title and abstract")
    taken = [title for title, _ in found]
    taken += [sentence for sentence in conclusions if len(sentence) >= SHORTEST]
    taken += [f"{title} {abstract}" for title, abstract in random.Random(SEED).sample(found, min(whole, len(found)))]
    random.Random(SEED).shuffle(taken)
    return taken


def titles(path: Path) -> set[str]:
    """Return the titles in a file of JSON lines, reduced to their letters and digits.

    Raises:
        ValueError: If it has none.
    """
    with reading(path, "a file of JSON lines with titles"), path.open(encoding="utf-8") as file:
        found = {_letters(json.loads(line)["title"]) for line in file if line.strip()} - {""}
    if not found:
        raise ValueError(f"{path} holds no title, so no article could be told from those that are measured on")
    return found


def _letters(title: str) -> str:
    return "".join(letter for letter in title.lower() if letter.isalnum())
