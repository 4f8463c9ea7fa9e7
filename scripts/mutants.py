"""Plant bugs one at a time in a copy of the project, and check that the tests named for each bug fail.

Usage: ``python scripts/mutants.py [WORDS]``, where WORDS selects the bugs whose names contain them.

``tests/mutants.toml`` lists the bugs: a name, a file, the text to replace, its replacement, and the tests that must fail.
The exit status is 1 when a bug goes unnoticed, or an entry no longer fits the code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

PROJECT = Path(__file__).resolve().parent.parent
LIST = PROJECT / "tests" / "mutants.toml"
COPIED = ("mlx_qwen_embeddings", "tests", "pyproject.toml", "README.md")
AT_ONCE = 2
"""Copies of the project in which bugs are planted side by side."""

SOME_FAILED = 1
"""pytest's exit status when tests fail. A collection error or a wrong test name has another."""


@dataclass(frozen=True)
class Mutant:
    """A bug to plant.

    Attributes:
        name: What the bug does.
        file: File to change, relative to the project.
        old: Text that occurs in the file exactly once.
        new: Replacement of the text.
        tests: Node ids of the tests that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def misfit(self) -> str | None:
        """Return why the entry no longer fits the code; None when it fits."""
        path = PROJECT / self.file
        count = path.read_text("utf-8").count(self.old) if path.is_file() else 0
        if count != 1:
            return f"{self.file} holds {self.old!r} {count} times, not once"
        for test in self.tests:
            file, *names = test.partition("[")[0].split("::")
            source = (PROJECT / file).read_text("utf-8") if (PROJECT / file).is_file() else ""
            if any(f" {name}" not in source for name in names) or not source:
                return f"{test} is not there"
        return None


def read_list() -> list[Mutant]:
    """Read ``tests/mutants.toml``."""
    entries = tomllib.loads(LIST.read_text("utf-8"))["mutant"]
    return [Mutant(**entry | {"tests": tuple(entry["tests"])}) for entry in entries]


def run_tests(copy: Path, tests: list[str]) -> int:
    """Run tests in a copy of the project and return pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False).returncode


def copy_project(folder: Path) -> Path:
    """Copy what the tests need into a new folder, and return it."""
    folder.mkdir()
    for name in COPIED:
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


def plant(mutant: Mutant, copies: "SimpleQueue[Path]") -> str | None:
    """Plant a bug in a free copy and run its tests; return a complaint if they do not fail."""
    copy = copies.get()
    path = copy / mutant.file
    sound = path.read_text("utf-8")
    path.write_text(sound.replace(mutant.old, mutant.new), "utf-8")
    status = run_tests(copy, list(mutant.tests))
    path.write_text(sound, "utf-8")
    copies.put(copy)
    caught = status == SOME_FAILED
    print(f"{'caught' if caught else 'NOT CAUGHT'}: {mutant.name}", flush=True)
    return None if caught else f"{mutant.name}: pytest ended with status {status}"


def main() -> int:
    """Run the program and return its exit status."""
    words = " ".join(sys.argv[1:])
    mutants = [mutant for mutant in read_list() if words in mutant.name]
    complaints = [f"{mutant.name}: {why}" for mutant in mutants if (why := mutant.misfit())]
    copies = SimpleQueue[Path]()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(AT_ONCE):
            copies.put(copy := copy_project(Path(folder) / f"copy{number}"))
        if not complaints and run_tests(copy, sorted({test for mutant in mutants for test in mutant.tests})):
            complaints.append("the tests fail without any bug planted")
        if not complaints:
            complaints += filter(None, pool.map(lambda mutant: plant(mutant, copies), mutants))
    print(*complaints, f"{len(mutants)} bugs planted, {len(complaints)} complaints", sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())
