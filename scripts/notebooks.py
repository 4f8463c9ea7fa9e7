"""Run the notebooks from top to bottom, each in a kernel of this interpreter.

python scripts/notebooks.py [--store] [--limit SECONDS] [NAME...]

The exit status is 1 if a cell raises an error or a notebook takes longer than the limit. ``--store`` writes the outputs
into the files.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parents[1] / "notebooks"
LIMIT = 60.0
"""Most seconds for a notebook, on a machine that is otherwise idle."""


def run(path: Path, *, store: bool, limit: float) -> str:
    """Run a notebook, and return what is wrong with it; "" if nothing is."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", timeout=600, resources={"metadata": {"path": str(FOLDER)}})
    start = time.perf_counter()
    try:
        client.execute(env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    except CellExecutionError as error:
        return str(error)
    seconds = time.perf_counter() - start
    print(f"{path.name}: {seconds:.0f} s")
    if store:
        clean(notebook)
        nbformat.write(notebook, path)
    return f"it took {seconds:.0f} s; the limit is {limit:.0f} s" if seconds > limit else ""


def clean(notebook: nbformat.NotebookNode) -> None:
    """Remove everything that differs from run to run without telling the reader anything."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    } | {name: value for name, value in notebook.metadata.items() if name == "widgets"}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            # Logs hold addresses and process ids.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def main() -> int:
    """Run the named notebooks, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="Notebooks to run, such as 01_langchain; default: all.")
    parser.add_argument("--store", action="store_true", help="Write the outputs into the files.")
    parser.add_argument("--limit", type=float, default=LIMIT, help="Most seconds for a notebook; default: %(default)s.")
    arguments = parser.parse_args()
    paths = [FOLDER / f"{name}.ipynb" for name in arguments.names] or sorted(FOLDER.glob("*.ipynb"))
    results = {path.name: run(path, store=arguments.store, limit=arguments.limit) for path in paths}
    faults = {name: fault for name, fault in results.items() if fault}
    for name, fault in faults.items():
        print(f"{name}: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
