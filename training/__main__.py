"""Run one step of the training: `python -m training {tokenizer,teacher,student,pack,card}`."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import EOS, ModelShape, Recipe, WorkFolder

logger = logging.getLogger("training")


def run_tokenizer(arguments: argparse.Namespace) -> None:
    """Make the student's `tokenizer.json` from the teacher's."""
    from training import teacher, tokenizer

    work = WorkFolder(arguments.work)
    work.root.mkdir(parents=True, exist_ok=True)
    made = tokenizer.from_teacher((arguments.model or teacher.find_packaged()) / "tokenizer.json")
    made.save(str(work.tokenizer), pretty=False)
    logger.info("%d entries, id of %s is %d", made.get_vocab_size(), EOS, tokenizer.eos_id(made))


def run_teacher(arguments: argparse.Namespace) -> None:
    """Write the shards of the teacher's answers that do not exist yet."""
    from training import abstracts, corpus, medical, teacher

    if arguments.abstracts and arguments.without is None:
        raise ValueError(
            "--abstracts may hold what is measured on: name the corpus.jsonl of that behind --without, "
            "or give --without alone if there is none"
        )
    work = WorkFolder(arguments.work)
    work.root.mkdir(parents=True, exist_ok=True)
    more = [*medical.definitions(arguments.terms)] if arguments.terms else []
    more += medical.phrases(arguments.words) if arguments.words else []
    prose = [*corpus.lines(arguments.corpus)]
    if not prose:
        raise ValueError(f"{arguments.corpus} holds no text")
    groups = [abstracts.texts(arguments.abstracts, arguments.without or []), corpus.chosen(prose, more)]
    master = teacher.load(arguments.model or teacher.find_packaged(), arguments.device)
    if not work.alone.exists():
        _write(work.alone, teacher.entries_alone(master))
    teacher.teach(master, groups, work.shards, arguments.shards)


def _write(path: Path, array: NDArray[Any]) -> None:
    """Write the whole array or nothing."""
    partial = path.with_suffix(".partial.npy")
    np.save(partial, array)
    partial.replace(path)


def run_student(arguments: argparse.Namespace) -> None:
    """Train `student.safetensors` from the shards, continuing from the checkpoint if there is one."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    from training import axes, initial, lessons, log, model, plot, schedule, student, teacher, turn

    work = WorkFolder(arguments.work)
    own = Tokenizer.from_file(str(work.tokenizer))
    masters = Tokenizer.from_file(str((arguments.model or teacher.find_packaged()) / "tokenizer.json"))
    taught = lessons.Lessons(work.shards, own, masters)
    if not work.rotation.exists():  # kept, because another machine may find axes of the opposite sign
        _write(work.rotation, axes.learnt(taught.shards))
    taught.rotation = np.load(work.rotation)
    shape = ModelShape(vocab_size=own.get_vocab_size(), hidden_size=len(taught.rotation))
    if work.checkpoint.exists() or arguments.earlier:
        first = model.Student(shape)  # its weights are loaded below
    else:
        first = initial.build(shape, taught.own_entries(taught.usual_states(np.load(work.alone)), shape.vocab_size))
    recipe = Recipe(tokens=arguments.tokens, compile=arguments.compile)
    training = student.Training(first, taught, recipe, work, arguments.device)
    if work.checkpoint.exists():
        training.resume(work.checkpoint)
    elif arguments.earlier:
        turn.take_over(training, WorkFolder(arguments.earlier))
    if training.progress.step:
        logger.info("going on from step %d", training.progress.step)
    spent = training.progress.seconds / 60
    training.run(
        schedule.by_steps(arguments.steps) if arguments.steps is not None else schedule.by_minutes(arguments.minutes, spent)
    )
    save_file({name: value.cpu() for name, value in training.student.state_dict().items()}, work.student)
    plot.curve(log.read(work.log), work.picture)
    logger.info("wrote %s and %s", work.student, work.picture)


def run_pack(arguments: argparse.Namespace) -> None:
    """Write a model folder from weights and tokenizer."""
    from training.pack import pack

    pack(arguments.weights, arguments.tokenizer, arguments.out, arguments.bits, arguments.table_bits)
    logger.info("wrote %s", arguments.out)


def run_card(arguments: argparse.Namespace) -> None:
    """Write a packed folder's `README.md` from what `evaluate.py` measured and the run's log."""
    from training import card, log

    card.write(arguments.folder, json.loads(arguments.measured.read_text(encoding="utf-8")), log.read(arguments.log))


def more_than_none(given: str) -> float:
    """Parse a budget, which must be positive."""
    if not float(given) > 0:
        raise argparse.ArgumentTypeError(f"{given} leaves nothing to train for")
    return float(given)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    root = argparse.ArgumentParser(prog="python -m training", description="How the embedded model nano is made.")
    steps = root.add_subparsers(required=True, metavar="step")
    teachers = argparse.ArgumentParser(add_help=False)
    teachers.add_argument("--model", type=Path, help="folder of the teacher (default: inside the installed package)")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(%(default)s)")

    tokenizer = steps.add_parser("tokenizer", parents=[teachers], help="take the teacher's vocabulary")
    tokenizer.add_argument("work", type=Path, help="folder for the files that the steps share")
    tokenizer.set_defaults(run=run_tokenizer)

    teacher = steps.add_parser("teacher", parents=[teachers, device], help="ask all-MiniLM-L6-v2 about the corpus")
    teacher.add_argument("corpus", type=Path, help="one text per line, .txt or .txt.gz")
    teacher.add_argument("work", type=Path, help="as above")
    teacher.add_argument("--terms", type=Path, help="an ontology of medical terms, .obo")
    teacher.add_argument("--words", type=Path, help="a hunspell dictionary of medical words, .dic")
    teacher.add_argument("--abstracts", type=Path, nargs="*", default=[], help="files of MEDLINE, .xml.gz")
    teacher.add_argument("--without", type=Path, nargs="*", help="corpus.jsonl files with titles to leave out")
    teacher.add_argument("--shards", type=int, help="most shards of 20,000 texts of each kind (default: all)")
    teacher.set_defaults(run=run_teacher)

    student = steps.add_parser("student", parents=[teachers, device], help="distil")
    student.add_argument("work", type=Path, help="as above")
    budget = student.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=more_than_none, help="how long to train, with the time before a checkpoint")
    budget.add_argument("--steps", type=more_than_none, help="how many batches to train on, for comparable runs")
    student.add_argument("--from", type=Path, dest="earlier", help="work folder of a run to continue from, on other shards")
    student.add_argument("--tokens", type=int, default=Recipe().tokens, help="tokens per batch (%(default)s)")
    student.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the student with torch"
    )
    student.set_defaults(run=run_student)

    pack = steps.add_parser("pack", help="write the model folder")
    pack.add_argument("weights", type=Path, help="float32 weights, safetensors")
    pack.add_argument("tokenizer", type=Path, help="tokenizer.json")
    pack.add_argument("out", type=Path, help="folder to write")
    pack.add_argument("--bits", type=int, choices=(4, 5, 6, 8, 32), default=8, help="32 is not quantised (%(default)s)")
    pack.add_argument(
        "--table-bits", type=int, choices=(4, 5, 6, 8), help="bits of the embedding table (default: those of --bits)"
    )
    pack.set_defaults(run=run_pack)

    card = steps.add_parser("card", help="write the model card")
    card.add_argument("folder", type=Path, help="the packed model")
    card.add_argument("measured", type=Path, help="JSON file written by training/evaluate.py")
    card.add_argument("log", type=Path, help="log.jsonl of the student step")
    card.set_defaults(run=run_card)
    return root


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
