"""Check README and docs: examples print what the page shows, tables match the code, and all that they name exists."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mlx_qwen_embeddings
from benchmarks.markdown import fill
from mlx_qwen_embeddings.models import FAMILIES
from mlx_qwen_embeddings.registry import NANO_FOLDER

PROJECT = Path(mlx_qwen_embeddings.__file__).parents[1]
README = (PROJECT / "README.md").read_text("utf-8")
MANUAL = {"README.md": README} | {
    f"docs/{path.name}": path.read_text("utf-8") for path in sorted((PROJECT / "docs").glob("*.md"))
}
Example = tuple[str, str | None]


def examples(markdown: str) -> list[Example]:
    """Return each Python block with the text block that follows it, or None if there is none."""
    blocks = [(match[1], match[2]) for match in EXAMPLES.BLOCK.finditer(markdown)]
    following = [*blocks, ("", "")][1:]
    return [
        (code, printed if kind == "text" else None)
        for (language, code), (kind, printed) in zip(blocks, following, strict=True)
        if language == "python"
    ]


def run(example: Example, namespace: dict[str, Any]) -> None:
    code, expected = example
    assert EXAMPLES.printed(code, namespace).removesuffix("\n") == (expected or "").rstrip("\n")


def updater(name: str = "update_readme") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXAMPLES = updater("update_examples")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in mlx_qwen_embeddings.EngineSettings.model_fields:
        monkeypatch.delenv(f"MLX_QWEN_{setting.upper()}", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("page", [name for name, markdown in MANUAL.items() if examples(markdown)])
def test_examples_print_what_the_page_shows(page: str) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for example in examples(MANUAL[page]):
        run(example, namespace)


def test_the_examples_are_found() -> None:
    found = {page: len(examples(markdown)) for page, markdown in MANUAL.items()}
    assert found["README.md"] >= 3
    assert sum(found.values()) >= 13


@pytest.mark.parametrize(
    ("code", "expected"), [("print(1.25)", "1.26"), ("print(1)", None), ("", "1"), ("print(1)\nprint(2)", "1")]
)
def test_the_runner_notices_differences(code: str, expected: str | None) -> None:
    with pytest.raises(AssertionError):
        run((code, expected), {})


def test_the_output_of_examples_can_be_updated() -> None:
    page = "```python\nx = 1\nprint(x)\n```\n\n```text\n7\n```\n\nand\n\n```python\nprint(x + 1)\n```\n\n```text\n```\n"
    page += "\n```bash\nls\n```\n\n```text\n7\n```\n"
    made = EXAMPLES.rerun(page)
    assert made == page.replace("7\n", "1\n", 1).replace("```text\n```", "```text\n2\n```")


def test_tables_match_the_code() -> None:
    for page, tables in updater().TABLES.items():
        text = (PROJECT / page).read_text("utf-8")
        assert fill(text, tables) == text, "run: python scripts/update_readme.py"


def test_the_updater_repairs_a_table_and_requires_its_marks() -> None:
    tables = updater().TABLES["README.md"]
    assert fill(README.replace("4-bit DWQ", "5-bit"), tables) == README
    with pytest.raises(ValueError, match="<!-- settings -->"):
        fill(README.replace("<!-- /settings -->", ""), tables)


def test_the_scores_of_nano_are_those_of_its_card() -> None:
    card = (NANO_FOLDER / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| [\w -]+ \| (?:Spearman|nDCG@10) \| 0\.\d+ \| 0\.\d+ \|.*$", card, re.MULTILINE)
    assert len(rows) == 5
    assert [row for row in rows if row not in MANUAL["docs/models.md"]] == []


def test_the_first_screen() -> None:
    lines = README.splitlines()
    commands, code = lines.index("```bash"), lines.index("```python")
    assert commands < code < 20
    assert [line.split("#")[0].strip() for line in lines[commands + 1 : commands + 3]] == ["make demo", "make test"]
    opening = " ".join(lines[1:commands])
    assert len(re.findall(r"\.(?:\s|$)", opening)) == 2


def test_every_named_make_target_exists() -> None:
    targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = re.findall(r"\bmake ([a-z-]+)(?=`|\n|  +#)", "".join(MANUAL.values()))
    assert {"demo", "test", "lint"} <= set(named) <= set(targets)


def anchors(markdown: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", EXAMPLES.BLOCK.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    markdown = page.read_text("utf-8")
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", EXAMPLES.BLOCK.sub("", markdown)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not link.startswith("https://") and not (
            target.exists() and (not anchor or anchor in anchors(target.read_text("utf-8")))
        ):
            broken.append(link)
    return broken


OURS = ("benchmarks", "docs", "mlx_qwen_embeddings", "notebooks", "scripts", "soak", "tests", "training")
PAGES = [*PROJECT.glob("*.md"), *(page for name in OURS for page in sorted((PROJECT / name).rglob("*.md")))]
PAGES = [page for page in PAGES if "node_modules" not in page.parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    assert {"README.md", "SCALE.md", "CHANGELOG.md"} <= {page.name for page in PAGES}
    page = tmp_path / "page.md"
    page.write_text("# What, now\n[a](#what-now) [b](#what,-now) [c](page.md#what-now) [d](gone.md) [e](page.md#gone)\n")
    assert broken_links(page) == ["#what,-now", "gone.md", "page.md#gone"]


def test_every_supported_architecture_is_named() -> None:
    assert [family for family in FAMILIES if f"`{family}`" not in README] == []


def test_lines_of_prose_fit() -> None:
    lines = [line for markdown in MANUAL.values() for line in markdown.splitlines()]
    long = [line for line in lines if len(line) > 124 and not line.startswith("|")]
    assert long == []
