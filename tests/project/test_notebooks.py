"""Check the notebooks as they are stored. `make notebooks` runs them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import mlx_qwen_embeddings

PROJECT = Path(mlx_qwen_embeddings.__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
NAMES = ["01_langchain", "02_llama_index", "03_look_at_embeddings", "04_choose_dimensions_and_precision", "05_large_corpus"]


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def test_all_notebooks_exist_and_are_listed_in_the_readme() -> None:
    assert [path.stem for path in NOTEBOOKS] == NAMES
    readme = (PROJECT / "README.md").read_text("utf-8")
    assert re.findall(r"\(notebooks/(\w+)\.ipynb\)", readme) == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_small_and_were_run_in_order_without_an_error(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert "error" not in {output["output_type"] for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 25
    assert len(cells(path, "markdown")) >= len(code) / 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_says_what_to_install(path: Path) -> None:
    first = "".join(cells(path, "markdown")[0]["source"])
    assert re.search(r'```bash\npip install "\.\[cpu,([\w-]+,)*notebooks(,[\w-]+)*\]" ', first)


@pytest.mark.parametrize("name", ["01_langchain", "02_llama_index"])
def test_a_store_that_is_kept_says_which_model_made_it(name: str) -> None:
    (cell,) = (
        cell for cell in cells(PROJECT / "notebooks" / f"{name}.ipynb", "code") if "mkdtemp" in "".join(cell["source"])
    )
    source = "".join(cell["source"])
    assert source.index("check_folder(emb") < min(source.index(kept) for kept in ("dump(", "persist(") if kept in source)
    assert "holds vectors made with dimensions 384, not 128" in json.dumps(cell["outputs"])


def test_the_first_three_hits_are_shown_with_and_without_the_instruction() -> None:
    shown = [json.dumps(cell["outputs"]) for cell in cells(PROJECT / "notebooks" / "01_langchain.ipynb", "code")]
    (table,) = (text for text in shown if "with the instruction" in text)
    assert table.count("<tr>") == 3 * 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_paths_or_addresses_are_stored(path: Path) -> None:
    stored = json.loads(path.read_text("utf-8"))
    assert set(stored["metadata"]) <= {"kernelspec", "language_info", "widgets"}
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            told = {kind: data for kind, data in output.get("data", {}).items() if kind != "image/png"}
            words = re.sub(r"base64,[\w+/=]+", "", json.dumps([told, output.get("text", "")]))
            assert not re.search(r"/(?:home|root|tmp|Users|var|work)/|\d+\.\d+\.\d+\.\d+", words)


@pytest.mark.parametrize("name", ["03_look_at_embeddings", "04_choose_dimensions_and_precision", "05_large_corpus"])
def test_pictures_are_stored(name: str) -> None:
    path = PROJECT / "notebooks" / f"{name}.ipynb"
    kinds = [kind for cell in cells(path, "code") for output in cell["outputs"] for kind in output.get("data", {})]
    assert "image/png" in kinds


def test_the_notebook_on_precision_has_the_table_of_the_readme() -> None:
    readme = (PROJECT / "README.md").read_text("utf-8").split("<!-- precision -->")[1].split("<!-- /precision -->")[0]
    path = PROJECT / "notebooks" / "04_choose_dimensions_and_precision.ipynb"
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    shown = "".join("".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    share = r"\d+\.\d% · [\d,]+ B"
    assert len(re.findall(share, readme)) == 80
    assert re.findall(share, shown) == re.findall(share, readme)
