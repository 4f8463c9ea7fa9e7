"""`python -m training {tokenizer,teacher,student,pack}`: one step a call, each reading what the one before left."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.config import EOS, SEED, VOCAB_SIZE, ModelShape, WorkFolder

logger = logging.getLogger("training")


def run_tokenizer(arguments: argparse.Namespace) -> None:
    """Corpus to `tokenizer.json`."""
    from training import corpus, tokenizer

    work = WorkFolder(arguments.work)
    work.root.mkdir(parents=True, exist_ok=True)
    trained = tokenizer.train(corpus.lines(arguments.corpus), arguments.vocab_size)
    trained.save(str(work.tokenizer))
    logger.info("%d entries, id of %s is %d", trained.get_vocab_size(), EOS, trained.token_to_id(EOS))


def run_teacher(arguments: argparse.Namespace) -> None:
    """Corpus and `tokenizer.json` to `teacher.npy` and `tokens.npy`."""
    from tokenizers import Tokenizer

    from training import corpus, teacher

    work = WorkFolder(arguments.work)
    student_tokenizer = Tokenizer.from_file(str(work.tokenizer))
    model = teacher.load(arguments.model or teacher.find_packaged())
    np.save(work.tokens, teacher.embed_vocabulary(model, student_tokenizer))
    vectors = teacher.embed(model, corpus.texts(arguments.corpus))
    np.save(work.teacher, vectors)
    logger.info("%d texts, %d dimensions", *vectors.shape)


def run_student(arguments: argparse.Namespace) -> None:
    """Corpus, tokenizer and the teacher's vectors to `student.safetensors` and `rotation.npy`."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    from training import corpus, initial, lessons, schedule, student

    work, rng = WorkFolder(arguments.work), np.random.default_rng(SEED)
    tokenizer = Tokenizer.from_file(str(work.tokenizer))
    gathered = lessons.gather(corpus.texts(arguments.corpus), np.load(work.teacher), tokenizer, rng)
    np.save(work.rotation, gathered.rotation)
    token_vectors = np.load(work.tokens)
    vocab_size, hidden_size = token_vectors.shape
    shape = ModelShape(hidden_size=hidden_size, vocab_size=vocab_size)
    model = initial.build(shape, token_vectors, gathered.rotation, gathered.eos)
    clock = schedule.by_steps(arguments.steps) if arguments.steps else schedule.by_minutes(arguments.minutes)
    student.train(model, gathered, rng, clock)
    save_file(model.state_dict(), work.student)
    logger.info("wrote %s", work.student)


def run_pack(arguments: argparse.Namespace) -> None:
    """Weights and tokenizer to a model folder."""
    from training.pack import pack

    pack(arguments.weights, arguments.tokenizer, arguments.out, arguments.bits)
    logger.info("wrote %s", arguments.out)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    root = argparse.ArgumentParser(prog="python -m training", description="How the embedded model nano is made.")
    steps = root.add_subparsers(required=True, metavar="step")

    tokenizer = steps.add_parser("tokenizer", help="learn the byte-level BPE")
    _add_folders(tokenizer)
    tokenizer.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help="entries in all (%(default)s)")
    tokenizer.set_defaults(run=run_tokenizer)

    teacher = steps.add_parser("teacher", help="embed the corpus and the vocabulary with all-MiniLM-L6-v2")
    _add_folders(teacher)
    teacher.add_argument("--model", type=Path, help="folder of the teacher (default: inside the installed package)")
    teacher.set_defaults(run=run_teacher)

    student = steps.add_parser("student", help="distil")
    _add_folders(student)
    budget = student.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="how long to train; nano took 50 on two cores")
    budget.add_argument("--steps", type=int, help="how many batches to train on, for runs that compare")
    student.set_defaults(run=run_student)

    pack = steps.add_parser("pack", help="write the model folder")
    pack.add_argument("weights", type=Path, help="float32 weights, safetensors")
    pack.add_argument("tokenizer", type=Path, help="tokenizer.json")
    pack.add_argument("out", type=Path, help="folder to write")
    pack.add_argument("--bits", type=int, choices=(4, 8, 32), default=8, help="32 is not quantised (%(default)s)")
    pack.set_defaults(run=run_pack)
    return root


def _add_folders(step: argparse.ArgumentParser) -> None:
    step.add_argument("corpus", type=Path, help="one text a line, .txt or .txt.gz")
    step.add_argument("work", type=Path, help="folder for what the steps leave for each other")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one step.

    Args:
        argv: Arguments; None reads the process's own.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = parser().parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
