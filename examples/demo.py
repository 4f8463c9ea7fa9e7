"""Answer questions by meaning, with LangChain and with LlamaIndex, on one shared engine.

python examples/demo.py [--model nano] [--question "Why do birds migrate?"]
"""

import argparse
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from pydantic import ValidationError

from mlx_qwen_embeddings import get_engine
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from mlx_qwen_embeddings.settings import in_one_line

QUESTIONS = {
    "Why does my head hurt when I skip my morning coffee?": "caffeine",
    "My computer has become slow. What can I do?": "laptop",
    "Who said that we must not be afraid?": "roosevelt",
    "Can I be evicted from my apartment?": "tenant",
    "Why do birds fly south in winter?": "migration",
}
"""Each question and the id of its answer. They share no content word, so a search for words would find none of the five."""

TOLERANCE = 1e-4
"""The scores of the two frameworks may differ only by rounding."""

Passages = dict[str, dict[str, str]]
Hit = tuple[str, float]
"""Id of the best passage, and its cosine similarity."""


@dataclass(frozen=True)
class Run:
    """One framework's answers.

    Attributes:
        framework: Name of the framework.
        index_seconds: Time to embed and store all passages.
        question_seconds: Mean time to embed a question and find its passage.
        hits: One for each question, in order.
    """

    framework: str
    index_seconds: float
    question_seconds: float
    hits: list[Hit]


def load_passages() -> Passages:
    """Return the passages by id; each has a ``source`` and a ``text``."""
    lines = Path(__file__).with_name("passages.jsonl").read_text("utf-8").splitlines()
    return {entry.pop("id"): entry for entry in map(json.loads, lines)}


def with_langchain(model: str, passages: Passages) -> Callable[[str], Hit]:
    """Store the passages in a LangChain vector store, and return its search for the best one."""
    store = InMemoryVectorStore(MLXQwenEmbeddings(model=model))
    store.add_texts([passage["text"] for passage in passages.values()], ids=list(passages))

    def find(question: str) -> Hit:
        ((document, score),) = store.similarity_search_with_score(question, k=1)
        return str(document.id), score

    return find


def with_llama_index(model: str, passages: Passages) -> Callable[[str], Hit]:
    """Store the passages in a LlamaIndex index, and return its search for the best one."""
    nodes = [TextNode(id_=name, text=passage["text"]) for name, passage in passages.items()]
    retriever = VectorStoreIndex(nodes, embed_model=MLXQwenEmbedding(model_name=model)).as_retriever(similarity_top_k=1)

    def find(question: str) -> Hit:
        (found,) = retriever.retrieve(question)
        return found.node.node_id, found.get_score()

    return find


FRAMEWORKS = {"LangChain": with_langchain, "LlamaIndex": with_llama_index}


def ask(framework: str, model: str, passages: Passages, questions: Sequence[str]) -> Run:
    """Store the passages with one framework, ask it the questions, and time both."""
    begun = time.perf_counter()
    find = FRAMEWORKS[framework](model, passages)
    stored = time.perf_counter()
    hits = [find(question) for question in questions]
    return Run(framework, stored - begun, (time.perf_counter() - stored) / len(questions), hits)


def verdict(one: Run, other: Run) -> tuple[bool, str]:
    """Return whether two frameworks agree, and a sentence that says so."""
    names = f"{one.framework} and {other.framework}"
    if [name for name, _ in one.hits] != [name for name, _ in other.hits]:
        return False, f"{names} found different passages: that is a defect."
    difference = max(abs(a - b) for (_, a), (_, b) in zip(one.hits, other.hits, strict=True))
    if difference > TOLERANCE:
        return False, f"The scores of {names} differ by {difference:.3f}: that is a defect."
    return True, f"{names} found the same passages with the same scores."


def show(passages: Passages, questions: Sequence[str], runs: Sequence[Run], width: int) -> None:
    """Print questions, answers and times, in at most ``width`` columns."""
    for question, (name, score) in zip(questions, runs[0].hits, strict=True):
        passage = passages[name]
        answer = f"{score:.2f}  {textwrap.shorten(passage['text'], 260, placeholder=' ...')}  [{passage['source']}]"
        print(textwrap.fill(question, width))
        print(textwrap.fill(answer, width, initial_indent="  ", subsequent_indent="        "), end="\n\n")
    for run in runs:
        stored = f"{run.framework}: {len(passages)} passages embedded and stored in {run.index_seconds:.2f} s,"
        print(f"{stored} {1000 * run.question_seconds:.1f} ms per question")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status: 1 if the model cannot be opened or the frameworks disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="nano", help="alias, Hub name or local folder (default: nano, in the package)")
    parser.add_argument("--question", action="append", metavar="TEXT", help="your own question; may be repeated")
    options = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 has no dashes or curly quotes
    passages, questions = load_passages(), options.question or list(QUESTIONS)
    try:
        device = get_engine(options.model).warmup().facts.device
        runs = [ask(framework, options.model, passages, questions) for framework in FRAMEWORKS]
    except (MLXQwenEmbeddingsError, ValidationError) as error:
        print(in_one_line(error) if isinstance(error, ValidationError) else error, file=sys.stderr)
        return 1
    show(passages, questions, runs, max(60, min(shutil.get_terminal_size().columns, 120)))
    agree, sentence = verdict(*runs)
    print(f"\n{sentence}\nModel: {options.model}, computed on the {device}.")
    if options.model == "nano":
        print("Next, the real Qwen3 (0.3 GB): python examples/demo.py --model small")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
