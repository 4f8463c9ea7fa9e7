"""Make the small labelled set that ``mlx-qwen convert`` measures with, from the English part of XQuAD.

    python scripts/labelled_set.py XQUAD_FOLDER mlx_qwen_embeddings/tools/labelled

The source is a folder in BEIR's layout. The set has its shortest passages, so that many fit, and their questions in turn:
the first of every passage, then the second of every passage, until there are enough.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

PASSAGES, QUESTIONS = 150, 350


def rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the objects of a JSON Lines file by their id."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {row["_id"]: row for row in found}


def lines(texts: dict[str, str]) -> str:
    """Return texts by id as JSON Lines."""
    return "".join(json.dumps({"_id": name, "text": text}, ensure_ascii=False) + "\n" for name, text in texts.items())


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    corpus, questions = rows(given.source / "corpus.jsonl"), rows(given.source / "queries.jsonl")
    asked: dict[str, list[str]] = {
        name: [] for name in sorted(corpus, key=lambda name: len(corpus[name]["text"]))[:PASSAGES]
    }
    for line in (given.source / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        question, passage, _ = line.split("\t")
        if passage in asked:
            asked[passage].append(question)
    turns = itertools.zip_longest(*([(name, question) for question in asked[name]] for name in asked))
    pairs = [pair for turn in turns for pair in turn if pair][:QUESTIONS]
    given.target.mkdir(parents=True, exist_ok=True)
    numbered = {f"q{number}": question for number, (_, question) in enumerate(pairs)}
    qrels = "".join(f"q{number}\t{passage}\t1\n" for number, (passage, _) in enumerate(pairs))
    (given.target / "corpus.jsonl").write_text(lines({name: corpus[name]["text"] for name in asked}), "utf-8")
    (given.target / "queries.jsonl").write_text(
        lines({name: questions[question]["text"] for name, question in numbered.items()}), "utf-8"
    )
    (given.target / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels, "utf-8")


if __name__ == "__main__":
    main()
