"""Ask, answer, and say how long it took."""

import argparse
import io
import math
import shutil
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.demo import report
from mlx_qwen_embeddings.demo.passages import load_passages
from mlx_qwen_embeddings.demo.questions import QUESTIONS
from mlx_qwen_embeddings.demo.runs import Build, Run, disagreement, run, timed
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError
from mlx_qwen_embeddings.registry import NANO_FOLDER, resolve
from mlx_qwen_embeddings.settings import in_one_line

TOLERANCE = 1e-4
"""Scores of the two frameworks differ by rounding alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        arguments: Command line; None takes the program's own.

    Returns:
        Exit status: 1 when the model could not be opened or the frameworks disagree.
    """
    parser = argparse.ArgumentParser(prog="python -m mlx_qwen_embeddings.demo", description=__doc__)
    parser.add_argument("--model", default="nano", help="alias, Hub name or local folder (default: nano, which is inside)")
    parser.add_argument("--question", action="append", metavar="TEXT", help="your own question; may be repeated")
    options = parser.parse_args(arguments)
    try:
        lines, agree = demonstrate(options.model, options.question or [question.text for question in QUESTIONS])
    except MLXQwenEmbeddingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except ValidationError as error:  # of the settings, which may come from the environment
        sys.stderr.write(f"{in_one_line(error)}\n")
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 has no dashes or curly quotes
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if agree else 1


def demonstrate(model: str, questions: Sequence[str]) -> tuple[list[str], bool]:
    """Ask both frameworks; give the lines to print, and whether they agree.

    Raises:
        MissingExtraError: When a framework or a back end is not installed.
        UnknownModelError: When the model's name means nothing.
        ModelLoadError: When the model cannot be had.
    """
    passages = load_passages()
    with timed() as loading:
        get_engine(model).warmup()
    runs = [run(name, build, model, passages, questions) for name, build in _frameworks()]
    difference = disagreement(*runs)
    width = max(report.NARROWEST, min(shutil.get_terminal_size().columns, report.WIDEST))
    lines = [
        *report.prose(f"{len(passages)} passages on unrelated subjects, model {model}", width),
        "",
        *report.answers(questions, runs[0], width),
        *report.times(loading.seconds, len(passages), runs),
        "",
        *report.prose(_verdict(runs, difference), width),
        *report.prose(_next_step(model), width),
    ]
    return lines, difference <= TOLERANCE


def _frameworks() -> list[tuple[str, Build]]:
    require("langchain_core", "langchain", "The demo")
    require("llama_index.core", "llama-index", "The demo")
    # Imported once it is known that they can be, and not for --help: LlamaIndex takes two seconds.
    from mlx_qwen_embeddings.demo import with_langchain, with_llama_index  # noqa: PLC0415 - as said above

    return [("LangChain", with_langchain.build), ("LlamaIndex", with_llama_index.build)]


def _verdict(runs: Sequence[Run], difference: float) -> str:
    first, second = (run.framework for run in runs)
    if not math.isfinite(difference):
        return f"{first} and {second} found different passages: that is a defect."
    if difference > TOLERANCE:
        return f"The scores of {first} and {second} differ by {difference:.3f}: that is a defect."
    return (
        f"{first} and {second} found the same passages with the same scores. They share one engine, and {second} took the "
        f"vectors from the cache that {first} had filled."
    )


def _next_step(model: str) -> str:
    if resolve(model).source != str(NANO_FOLDER):
        return f'Next: MLXQwenEmbeddings(model="{model}") in your own chain or index; see the README.'
    small = resolve("small")
    size = f" ({small.download_bytes / 1e9:.1f} GB)" if small.download_bytes else ""
    return f"Next, the real Qwen3{size}: python -m mlx_qwen_embeddings.demo --model small"


if __name__ == "__main__":
    sys.exit(main())
