"""Test which texts the embedded model is trained on, and in what form."""

import gzip
import json
from pathlib import Path

import pytest

from tests.support.medline_files import medline, part
from training import abstracts, corpus, medical
from training.__main__ import main

TEXTS = (
    "The harbour freezes in winter.",
    "Bread rises because yeast makes gas.",
    "She sold the bread at the harbour.",
    "Winter winds rise over the frozen sea.",
)


def write_corpus(path: Path, texts: tuple[str, ...] = TEXTS * 10) -> Path:
    content = "".join(f"{text}\n" for text in texts)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8")
    return path


def test_corpus_reads_plain_and_gzipped_alike(tmp_path: Path) -> None:
    texts = (*TEXTS, "naïve 東京", "x" * 600)
    plain, packed = (write_corpus(tmp_path / name, texts) for name in ("corpus.txt", "corpus.txt.gz"))
    assert list(corpus.lines(plain)) == list(corpus.lines(packed)) == [*texts[:-1], "x" * 500]


def test_all_prose_and_part_of_the_technical_text_are_chosen() -> None:
    prose = [f"The harbour froze in the winter of {year}." for year in range(1000)]
    technical = [f"frozen_{number}(harbour) returns None" for number in range(1000)]
    found = corpus.chosen([*prose, *technical], ["acrocyanosis"])
    assert set(prose) | {"acrocyanosis"} <= set(found)
    assert 240 < len(set(found) & set(technical)) < 360
    assert found == corpus.chosen([*prose, *technical], ["acrocyanosis"])
    assert found[:100] != prose[:100]


def test_passages_join_long_texts_that_share_a_rare_word() -> None:
    long = "and so on, as everybody in that town could tell at any time of any day or night, " * 4
    texts = [f"{word} {place}: {long}" for place in range(8) for word in ("harbour", "bakery")]
    made = corpus.passages(texts)
    assert len(made) == 4
    assert all(len(passage) >= corpus.PASSAGE_CHARACTERS for passage in made)
    assert all(passage.count("harbour") in (0, 4) for passage in made)


def test_medical_terms_come_with_definition_and_synonyms(tmp_path: Path) -> None:
    terms = [
        f'[Term]\nid: HP:{n}\nname: Sign {n}\ndef: "What \\"sign\\" {n} is." [x]\nsynonym: "Mark {n}" EXACT []\n'
        for n in range(6)
    ]
    (tmp_path / "hp.obo").write_text("format-version: 1.2\n\n" + "\n".join(terms))
    found = list(medical.definitions(tmp_path / "hp.obo"))
    assert found[:2] == ["Sign 0, Mark 0", 'Sign 0: What "sign" 0 is.']
    assert found[-2].count("What") == medical.DEFINITIONS_TOGETHER
    assert len(found) == 6 + 6 + 2


def test_phrases_take_every_word_twice(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(50)]
    (tmp_path / "med.dic").write_text("50\n" + "".join(f"{word}/S\n" for word in words))
    found = list(medical.phrases(tmp_path / "med.dic"))
    assert sorted(" ".join(found).split()) == sorted(words * 2)
    assert {len(phrase.split()) for phrase in found} <= set(range(1, 7))


def test_articles_have_title_and_abstract_in_english(tmp_path: Path) -> None:
    whole = part("Mice of <i>Mus</i> age.", "AIM") + part("They lived longer, p &lt; 0.05.", "RESULT")
    found = medline(
        tmp_path / "pubmed.xml.gz",
        [("On mice &amp; H<sub>2</sub>O.", whole, "eng"), ("Über Mäuse", part("Mäuse."), "ger"), ("Bare", "", "eng")],
    )
    assert list(abstracts.articles(found)) == [("On mice & H2O.", "Mice of Mus age. They lived longer, p < 0.05.")]


def test_abstracts_yield_no_article_of_the_evaluation_sets(tmp_path: Path) -> None:
    conclusion = "We conclude that the harbour number {} freezes in winter."
    articles = [(f"Harbour {n}", part(f"It was cold. {conclusion.format(n)}"), "eng") for n in range(6)]
    file = medline(tmp_path / "pubmed.xml.gz", [*articles, ("Short", part("It was cold. It froze."), "eng")])
    measured = tmp_path / "corpus.jsonl"
    measured.write_text(json.dumps({"_id": "1", "title": "harbour: 3", "text": "..."}) + "\n")
    found = abstracts.texts([file], [measured], whole=2)
    kept = [n for n in range(6) if n != 3]
    assert {text for text in found if text.startswith("We")} == {conclusion.format(n) for n in kept}
    assert {text for text in found if len(text) < 12} == {*(f"Harbour {n}" for n in kept), "Short"}
    whole = [text for text in found if "It was cold." in text]
    assert len(whole) == 2
    assert all(text.startswith(("Harbour", "Short It was cold.")) for text in whole)
    assert len(found) == 6 + 5 + 2
    assert found == abstracts.texts([file], [measured], whole=2)
    assert abstracts.texts([], []) == []


def test_a_file_in_the_wrong_format_is_named(tmp_path: Path) -> None:
    plain, packed, latin = (tmp_path / name for name in ("plain.xml.gz", "packed.xml.gz", "latin.txt"))
    plain.write_text("<PubmedArticleSet/>")
    packed.write_bytes(gzip.compress(b"<PubmedArticleSet>"))
    latin.write_bytes("naïve".encode("latin-1"))
    for file in (plain, packed):
        with pytest.raises(ValueError, match=f"{file.name} is not a file of MEDLINE"):
            list(abstracts.articles(file))
    packed.write_bytes(gzip.compress(b"<html></html>"))
    with pytest.raises(ValueError, match=r"packed\.xml\.gz: no article in English"):
        abstracts.texts([packed], [])
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text"):
        list(corpus.lines(latin))
    with pytest.raises(ValueError, match=r"latin\.txt is not a file of JSON lines"):
        abstracts.titles(latin)
    for line, fault in (("{}", "is not a file of JSON lines with titles: 'title'"), ('{"title": ""}', "holds no title")):
        plain.write_text(line + "\n")
        with pytest.raises(ValueError, match=fault):
            abstracts.titles(plain)
    for line in ('{"title": null}', '["a"]', "3"):
        plain.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"plain\.xml\.gz is not a file of JSON lines with titles"):
            abstracts.titles(plain)
    packed.write_bytes(gzip.compress(b"<PubmedArticleSet>" * 1000)[:-20] + b"\0" * 30)
    with pytest.raises(ValueError, match=r"packed\.xml\.gz is not a file of MEDLINE"):
        list(abstracts.articles(packed))
    for read in (medical.definitions, medical.phrases):
        with pytest.raises(ValueError, match=r"latin\.txt is not an? (ontology|hunspell dictionary) in"):
            list(read(latin))
    for read, fault in ((medical.definitions, "not an ontology"), (medical.phrases, "not a hunspell dictionary")):
        with pytest.raises(ValueError, match=fault):
            list(read(plain))


def test_abstracts_need_to_know_the_evaluation_sets(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("The harbour freezes in winter.\n")
    articles = medline(tmp_path / "pubmed.xml.gz", [("Ice", part("Cold."), "eng")])
    with pytest.raises(ValueError, match=r"name the corpus\.jsonl of that behind --without, or give --without alone"):
        main(["teacher", str(tmp_path / "corpus.txt"), str(tmp_path / "work"), "--abstracts", str(articles)])
    assert not (tmp_path / "work").exists()
