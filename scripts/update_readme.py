"""Write the tables of the pages from their sources: registry, settings, options, nano's card, measured results.

Usage: ``python scripts/update_readme.py``
"""

import inspect
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer import Typer
from typer.models import OptionInfo

from mlx_qwen_embeddings.cli.app import app
from mlx_qwen_embeddings.cli.embed import embed
from mlx_qwen_embeddings.cli.serve import RENAMED
from mlx_qwen_embeddings.cli.serve import settings as flags_of_serve
from mlx_qwen_embeddings.options import OPTIONS
from mlx_qwen_embeddings.registry import NANO_FOLDER, ModelSpec, list_models
from mlx_qwen_embeddings.server.settings import ServerSettings
from mlx_qwen_embeddings.settings import PREFIX, EngineSettings

PROJECT = Path(__file__).resolve().parent.parent
sys.path.append(str(PROJECT))

from benchmarks.load_report import short  # noqa: E402 - the line above finds it
from benchmarks.markdown import fill, table  # noqa: E402 - as above
from benchmarks.report import load, summary  # noqa: E402 - as above
from soak.report import as_table  # noqa: E402 - as above
from training.card import size  # noqa: E402 - as above

PRECISION = PROJECT / "benchmarks" / "results" / "precision.json"


def models() -> str:
    """Return the table of registered models."""
    headers = ("name", "also", "repository", "weights", "dimensions", "tokens", "download")
    return table(headers, map(model_row, list_models()))


def model_row(spec: ModelSpec) -> list[str]:
    """Return the cells of a model."""
    names = " ".join(f"`{alias}`" for alias in spec.aliases)
    source = "inside the package" if spec.local else f"`{spec.source}`"
    size = "" if spec.download_bytes is None else f"{spec.download_bytes / 1e9:.1f} GB"
    numbers = ["" if number is None else f"{number:,}" for number in (spec.dimensions, spec.max_length)]
    return [f"`{spec.name}`", names, source, spec.weights, *numbers, "none" if spec.local else size]


def options() -> str:
    """Return the table of a call's options."""
    rows = [(f"`{option.name}`", f"`{option.default!r}`".replace("'", '"'), option.help) for option in OPTIONS.values()]
    return table(("option", "default", "meaning"), rows)


def all_settings() -> str:
    """Return the table of the engine's and the server's settings, from the docstrings of the fields."""
    rows: list[tuple[str, ...]] = []
    for made in (EngineSettings, ServerSettings):
        for name, field in made.model_fields.items():
            default = f"{field.default!r}".replace("'", '"')
            variable = f"`{PREFIX}{name.upper()}`"
            rows.append((f"`{name}`", flag_of(name), variable, f"`{default}`", one_line(field.description or "")))
    return table(("setting", "flag", "variable", "default", "meaning"), rows)


def flag_of(name: str) -> str:
    """Return the flag of ``mlx-qwen serve`` for a setting; "" if there is none."""
    return f"`--{RENAMED.get(name, name).replace('_', '-')}`" if name in flags_of_serve() else ""


def scores() -> str:
    """Return the table of scores from nano's model card."""
    section = (NANO_FOLDER / "README.md").read_text("utf-8").split("## Scores\n")[1].split("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


WANTED = {"STS-B dev": 0.95, "XQuAD en": 0.97, "SciFact": 0.93}
"""Targets for nano, as shares of its teacher's figures."""

WANTED_SHORT, WANTED_POINTS, WANTED_BYTES = 0.95, 0.3, 16.2e6
"""Targets for its share at 128 dimensions, for the points that packing may cost, and for the size (the first nano's)."""


def wanted() -> str:
    """Return the table of nano's targets and what it reached."""
    sets = {row["set"]: row for row in json.loads((PROJECT / "training/results/nano.json").read_text("utf-8"))["sets"]}
    lost = [100 * (row["student"] - row["full"]) for row in sets.values()]
    rows = [
        (f"{name}, of the teacher's", f"{bar:.0%}", share(sets[name]["student"] / sets[name]["teacher"], bar))
        for name, bar in WANTED.items()
    ]
    rows += [
        (f"{name}, of its own at 128 dimensions", f"{WANTED_SHORT:.0%}", share(row["short"] / row["student"], WANTED_SHORT))
        for name, row in sets.items()
    ]
    points = f"{min(lost):+.2f} to {max(lost):+.2f} points"
    points = points if max(map(abs, lost)) <= WANTED_POINTS else f"**{points}**"
    rows.append(("packed less float32", f"within {WANTED_POINTS} points", points))
    rows.append(("artifact with tokenizer", f"{WANTED_BYTES / 1e6:.1f} MB", f"{size(NANO_FOLDER) / 1e6:.1f} MB"))
    return table(("", "wanted", "nano"), rows)


def share(found: float, bar: float) -> str:
    """Return a share, in bold if it misses its target."""
    return f"{found:.1%}" if found >= bar else f"**{found:.1%}**"


def precisions() -> str:
    """Return the table of how much quality shorter and coarser vectors keep, over the sets that all models share."""
    measured: dict[str, dict[str, dict[tuple[str, int], dict[str, Any]]]] = {}
    for one in json.loads(PRECISION.read_text("utf-8")):
        rows = {(row["precision"], row["dimensions"]): row for row in one["rows"]}
        measured.setdefault(one["model"], {})[one["set"]] = rows
    common = sorted(set.intersection(*(set(sets) for sets in measured.values())))
    measured = {model: {name: sets[name] for name in common} for model, sets in measured.items()}
    widths = sorted({width for sets in measured.values() for rows in sets.values() for _, width in rows})
    lines, notes = [], []
    for model, sets in sorted(measured.items(), reverse=True):
        whole = mean_quality(sets.values(), ("float32", widths[-1]))
        notes.append(f"`{model}` {whole:.3f}")
        for precision in dict.fromkeys(name for name, _ in next(iter(sets.values()))):
            cells = []
            for width in widths:
                size = next(iter(sets.values()))[precision, width]["bytes"]
                cells.append(f"{mean_quality(sets.values(), (precision, width)) / whole:.1%} · {size:,} B")
            lines.append([f"`{model}`", precision, *cells])
    made = table(("model", "kept as", *(f"{width} dimensions" for width in widths)), lines)
    return f"{made}\n\n100 % is the mean nDCG@10 of whole float32 vectors over {', '.join(common)}: {', '.join(notes)}."


def mean_quality(sets: Iterable[dict[tuple[str, int], dict[str, Any]]], key: tuple[str, int]) -> float:
    """Return the mean nDCG@10 over the sets."""
    return statistics.fmean(rows[key]["ndcg10"] for rows in sets)


def soak_ledger() -> str:
    """Return the ledger of the last stored soak as a table."""
    return as_table(json.loads((PROJECT / "soak" / "result.json").read_text("utf-8")))


def one_line(text: str) -> str:
    """Make a docstring fit a table's cell."""
    return " ".join(text.replace("``", "`").split())


def commands() -> str:
    """Return the table of commands, from the docstrings that ``--help`` shows."""
    return table(("command", "does"), [(f"`mlx-qwen {name}`", meaning) for name, meaning in every_command(app)])


def every_command(group: Typer, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and meaning of each command; names in a group begin with the group's name."""
    for command in group.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        yield f"{before}{name}", one_line((inspect.getdoc(command.callback) or "").split("\n\n")[0])
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from every_command(inner.typer_instance, f"{before}{inner.name} ")


def embed_options() -> str:
    """Return the table of options of ``mlx-qwen embed``, from its help texts."""
    rows = []
    for name, parameter in inspect.signature(embed).parameters.items():
        kind, said = get_args(parameter.annotation)
        if isinstance(said, OptionInfo):
            flag = name.replace("_", "-")
            # In an annotation, typer keeps the first name in ``default``.
            given = [said.default, *(said.param_decls or ())] if isinstance(said.default, str) else []
            names = given or ([f"--{flag}", f"--no-{flag}"] if kind is bool else [f"--{flag}"])
            choices = sorted(
                (f"`{choice}`" for choice in literals(kind)), key=lambda text: text != f"`{parameter.default}`"
            )
            rows.append((" ".join(f"`{option}`" for option in names), ", ".join(choices), said.help or ""))
    return table(("option", "choices", "meaning"), rows)


def literals(kind: Any) -> tuple[Any, ...]:
    """Return the choices of a Literal, or of an optional one."""
    found = [kind, *get_args(kind)]
    return next((get_args(part) for part in found if get_origin(part) is Literal), ())


def speed() -> str:
    """Return the table that compares this package with its peers."""
    return summary(load())


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "commands": commands,
        "models": models,
        "precision": precisions,
        "settings": all_settings,
        "soak": soak_ledger,
        "speed": speed,
    },
    "docs/command-line.md": {"embed": embed_options},
    "docs/engine.md": {"options": options},
    "docs/models.md": {"scores": scores},
    "docs/server.md": {"load": short},
    "training/README.md": {"wanted": wanted},
}


if __name__ == "__main__":
    for name, tables in TABLES.items():
        page = PROJECT / name
        page.write_text(fill(page.read_text("utf-8"), tables), "utf-8")
