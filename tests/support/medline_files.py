"""Files in the form of the National Library of Medicine's."""

import gzip
from collections.abc import Sequence
from pathlib import Path

ARTICLE = """<PubmedArticle><MedlineCitation><Article><ArticleTitle>{}</ArticleTitle>
<Abstract>{}</Abstract><Language>{}</Language></Article></MedlineCitation></PubmedArticle>"""


def medline(path: Path, articles: Sequence[tuple[str, str, str]]) -> Path:
    """Write a file with so many articles: title, abstract's elements, language."""
    inside = "".join(ARTICLE.format(*article) for article in articles)
    path.write_bytes(gzip.compress(f"<?xml version='1.0'?><PubmedArticleSet>{inside}</PubmedArticleSet>".encode()))
    return path


def part(text: str, label: str = "") -> str:
    """An element of an abstract."""
    return f"<AbstractText Label='{label}'>{text}</AbstractText>"
