"""Write the README's tables from their sources: the registry, the settings, the options of a call, and nano's card.

Usage: ``python scripts/update_readme.py``
"""

import ast
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mlx_qwen_embeddings import settings
from mlx_qwen_embeddings.options import EmbedOptions
from mlx_qwen_embeddings.registry import NANO_FOLDER, ModelSpec, list_models

README = Path(__file__).resolve().parent.parent / "README.md"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (headers, *rows)]
    lines.insert(1, "|---" * len(headers) + "|")
    return "\n".join(lines)


def models() -> str:
    """Give the table of registered models."""
    headers = ("name", "also", "repository", "weights", "dimensions", "tokens", "download")
    return table(headers, map(model_row, list_models()))


def model_row(spec: ModelSpec) -> list[str]:
    """Give a model's cells."""
    names = " ".join(f"`{alias}`" for alias in spec.aliases)
    source = "inside the package" if spec.local else f"`{spec.source}`"
    size = "" if spec.download_bytes is None else f"{spec.download_bytes / 1e9:.1f} GB"
    numbers = ["" if number is None else f"{number:,}" for number in (spec.dimensions, spec.max_length)]
    return [f"`{spec.name}`", names, source, spec.weights, *numbers, "none" if spec.local else size]


def options() -> str:
    """Give the table of a call's options, from the docstring that documents them."""
    documented = inspect.getdoc(EmbedOptions) or ""
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", documented.split("Attributes:")[1], re.MULTILINE)
    signature = inspect.signature(EmbedOptions).parameters
    rows = [(f"`{name}`", f"`{signature[name].default!r}`".replace("'", '"'), one_line(text)) for name, text in found]
    return table(("option", "default", "meaning"), rows)


def engine_settings() -> str:
    """Give the table of an engine's settings, from the strings under its fields."""
    meanings = field_docstrings(Path(settings.__file__).read_text("utf-8"), "EngineSettings")
    rows = []
    for name, field in settings.EngineSettings.model_fields.items():
        default = f"{field.default!r}".replace("'", '"')
        rows.append((f"`{name}`", f"`{settings.PREFIX}{name.upper()}`", f"`{default}`", one_line(meanings[name])))
    return table(("setting", "variable", "default", "meaning"), rows)


def field_docstrings(source: str, name: str) -> dict[str, str]:
    """Give the string that follows each annotated field of a class."""
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name).body
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def scores() -> str:
    """Give the table of scores from nano's model card."""
    section = (NANO_FOLDER / "README.md").read_text("utf-8").split("## Scores\n")[1].split("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


def one_line(text: str) -> str:
    """Make a docstring fit a table's cell."""
    return " ".join(text.replace("``", "`").split())


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "options": options,
    "scores": scores,
    "settings": engine_settings,
}


def fill(readme: str) -> str:
    """Put every table between its marks.

    Raises:
        ValueError: When a pair of marks is not there exactly once.
    """
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        parts = pattern.split(readme)
        if len(parts) != len(("before", "mark", "mark", "after")):
            message = f"the README needs <!-- {name} --> and <!-- /{name} --> exactly once"
            raise ValueError(message)
        before, opening, closing, after = parts
        readme = f"{before}{opening}{make()}\n{closing}{after}"
    return readme


if __name__ == "__main__":
    README.write_text(fill(README.read_text("utf-8")), "utf-8")
