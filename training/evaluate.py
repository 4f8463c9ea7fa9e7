"""Compare student, teacher and BM25 on labelled sets that no model was trained on: nDCG@10 and Spearman.

    python training/evaluate.py FOLDER DATA [--output FILE] [--full FOLDER]

DATA holds `retrieval/NAME` in BEIR's layout and `sts/NAME.tsv` of scored pairs. For student and teacher, texts are cut at
256 tokens, as sentence-transformers does for the teacher. BM25 reads whole texts.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))  # so that it runs as a file, too

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.tools.evaluate import (
    RANKS,
    evaluate_pairs,
    evaluate_retrieval,
    ndcg,
    read_pairs,
    read_retrieval,
    spearman,
)
from training import teacher

MAX_LENGTH = 256
PASTA = ["How do I cook pasta?", "What is the recipe for spaghetti?", "Tell me about quantum physics"]
UNKNOWN = (
    "Given a legal question, retrieve statutes that settle it",
    "Match the complaint to the right department",
    "Retrieve recipes that use these ingredients",
)
"""Instructions that the student was not trained with."""

SHORT = 128
SETS = {
    "STS-B dev": "sts/stsb-dev.tsv",
    "SICK train": "sts/sick-train.tsv",
    "XQuAD en": "retrieval/xquad/en",
    "SciFact": "retrieval/scifact",
    "CoSQA dev": "retrieval/cosqa-dev",
}


def score(engine: EmbeddingEngine, path: Path, dimensions: int | None = None) -> float:
    """Return nDCG@10 of a folder, or Spearman's correlation of a file of scored pairs.

    Args:
        engine: The model.
        path: The set.
        dimensions: Number of leading components to keep; None keeps all.
    """
    options = CallOptions(instruction="", dimensions=dimensions, max_length=MAX_LENGTH)
    measure = evaluate_retrieval if path.is_dir() else evaluate_pairs
    return measure(engine, path, **options).value


def lexical(path: Path) -> float:
    """Return the same score for BM25 (Robertson et al. 1994; Lucene's form, k1 1.5, b 0.75, English stop words).

    The similarity of two sentences is the mean of the scores of each as a query for the other.
    """
    import bm25s

    def words(texts: list[str]) -> list[list[str]]:
        found: list[list[str]] = bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
        return found

    ranker = bm25s.BM25(method="lucene")
    if path.is_dir():
        data = read_retrieval(path)
        ranker.index(words(list(data.documents.values())), show_progress=False)
        asked = words(list(data.queries.values()))
        found = ranker.retrieve(
            asked, k=min(RANKS, len(data.documents)), show_progress=False, return_as="documents"
        ).tolist()
        names = list(data.documents)
        ranked = zip(data.queries, found, strict=True)
        return float(np.mean([ndcg([names[row] for row in rows], data.relevance[query]) for query, rows in ranked]))
    wanted, *sides = read_pairs(path)
    left, right = map(words, sides)
    ranker.index([*left, *right], show_progress=False)
    pairs, zero = zip(left, right, strict=True), np.zeros(2 * len(left))
    # A sentence of stop words only is an empty query.
    scores = [(ranker.get_scores(a) if a else zero, ranker.get_scores(b) if b else zero) for a, b in pairs]
    found = [to_b[len(left) + row] + to_a[row] for row, (to_b, to_a) in enumerate(scores)]
    return spearman(found, wanted)


def measure(student: EmbeddingEngine, full: EmbeddingEngine | None, master: EmbeddingEngine, data: Path) -> dict[str, Any]:
    """Return all quality figures for the model card.

    Args:
        student: The packed student.
        full: The same model in float32, or None.
        master: The teacher.
        data: Folder of the sets.

    Raises:
        FileNotFoundError: If the folder holds none of the sets.
    """
    paths = {name: data / place for name, place in SETS.items() if (data / place).exists()}
    for name in SETS.keys() - paths.keys():
        print(f"{name} is left out: {data / SETS[name]} is not there", file=sys.stderr)
    if not paths:
        raise FileNotFoundError(f"{data} holds none of {', '.join(SETS.values())}")
    sets = [{"set": name, **row(student, full, master, path)} for name, path in paths.items()]
    first, *others = student.embed_documents(PASTA)
    return {"sets": sets, "pasta": [round(float(first @ other), 4) for other in others], "moved": moved(student, paths)}


def row(student: EmbeddingEngine, full: EmbeddingEngine | None, master: EmbeddingEngine, path: Path) -> dict[str, Any]:
    """Return the figures for one set."""
    figures = {"student": score(student, path), "teacher": score(master, path), "bm25": lexical(path)}
    figures |= {"short": score(student, path, SHORT)} | ({"full": score(full, path)} if full else {})
    figure = "nDCG@10" if path.is_dir() else "Spearman"
    return {"figure": figure, **{name: round(value, 5) for name, value in figures.items()}}


def moved(student: EmbeddingEngine, paths: dict[str, Path]) -> float:
    """Return the mean cosine between sentences with and without an unknown instruction."""
    pairs = next((path for path in paths.values() if path.is_file()), None)
    sentences = read_pairs(pairs, 500)[1] if pairs else PASTA
    plain = student.embed_documents(sentences)
    found = [np.einsum("nd,nd->n", student.embed_queries(sentences, instruction=text), plain) for text in UNKNOWN]
    return round(float(np.mean(found)), 4)


HEADERS = ("set", "figure", "student", "teacher", "BM25", "of the teacher", f"at {SHORT} dimensions", "packed less float32")


def table(measured: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [HEADERS, ("---",) * len(HEADERS)]
    for row in measured:
        change = f"{100 * (row['student'] - row['full']):+.2f} points" if "full" in row else ""
        shares = f"{row['student'] / row['teacher']:.1%}", f"{row['short'] / row['student']:.1%}", change
        lines.append((row["set"], row["figure"], *(f"{row[who]:.3f}" for who in ("student", "teacher", "bm25")), *shares))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="python training/evaluate.py", description="Student, teacher and BM25 side by side."
    )
    parser.add_argument("student", help="a model's folder or name")
    parser.add_argument("data", type=Path, help="folder with retrieval/ and sts/")
    parser.add_argument("--full", help="the same model in float32, to show what packing costs")
    parser.add_argument("--model", type=Path, help="folder of the teacher (default: inside the installed package)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    given = parser.parse_args()
    names = given.student, given.full or given.student, str(given.model or teacher.find_packaged())
    with EmbeddingEngine(names[0]) as student, EmbeddingEngine(names[1]) as full, EmbeddingEngine(names[2]) as master:
        measured = measure(student, full if given.full else None, master, given.data)
    if given.output:
        given.output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(table(measured["sets"]))


if __name__ == "__main__":
    main()
