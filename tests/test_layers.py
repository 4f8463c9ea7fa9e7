"""Imports point down only, and each foreign package stays in the modules that are there for it."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_qwen_embeddings

NAME = "mlx_qwen_embeddings"
ROOT = Path(mlx_qwen_embeddings.__file__).parent

LAYERS = (
    {"__init__", "_extras", "_files", "errors", "fork", "html_table"},
    {"precision", "prompts", "registry", "settings", "similarity"},
    {"batching", "cache", "chat", "models", "options", "statistics", "token_ids", "tokenization", "tokenizer_check"}
    | {"cache_codec", "cache_faults", "cache_file", "labelled", "sqlite_cache", "tiered_cache"},
    {"backend", "blas", "turns", "downloads", "fingerprint", "hub", "hub_integrity", "memory", "model_files", "opening"}
    | {"safetensors_check"}
    | {"encoder", "footprint", "lanes", "threads", "foreign", "gguf", "loading", "quantization", "weights"},
    {"delivery", "room", "schedule", "worker"},
    {"calls", "drivers", "engine", "lifecycle", "line", "loaded", "recipes", "shared"},
    {
        "adapter_options",
        "bench",
        "bulk",
        "chroma",
        "conversion",
        "evaluation",
        "fitting",
        "langchain",
        "llama_index",
        "plot",
        "ray",
        "stores",
        "verification",
    },
    {"cli", "demo", "search", "server"},
    {"__main__"},
)
"""By name below the package. A module may import from its own layer and from those before it."""

FRONTS = {"chroma", "langchain", "llama_index", "ray"}
"""These never import each other; the demo stands above them, since it shows both."""

POINTS_UP = {("settings", "fitting")}
"""A class method that hands on to what measures an engine, when it is called."""

HOMES = {
    "mlx": {"backend", "conversion", "encoder", "foreign", "gguf", "loading", "models", "quantization", "weights"},
    "mlx_lm": {"conversion", "foreign"},
    "tokenizers": {"gguf", "model_files", "tokenization", "tokenizer_check", "verification"},
    "huggingface_hub": {"downloads", "hub"},
    "chromadb": {"chroma"},
    "jinja2": {"chat"},
    "matplotlib": {"cli", "plot"},
    "lancedb": {"cli", "search"},
    "langchain_text_splitters": {"cli", "search"},
    "pyarrow": {"bulk", "ray", "search"},
    "pypdf": {"cli", "search"},
    "ray": {"ray"},
    "fastapi": {"server"},
    "prometheus_client": {"server"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "rich": {"cli"},
    "typer": {"cli"},
    "langchain_core": {"cli", "demo", "langchain"},
    "llama_index": {"demo", "llama_index"},
    "sentence_transformers": set[str](),
    "torch": set[str](),
    "transformers": set[str](),
}
"""Foreign package to the modules that may import it, at whatever time."""


def modules(root: Path = ROOT) -> dict[str, str]:
    """Give the source of every module, by dotted name below the package."""
    paths = root.rglob("*.py")
    return {".".join(path.relative_to(root).with_suffix("").parts): path.read_text("utf-8") for path in paths}


def imports(source: str) -> Iterator[str]:
    """Give the dotted name of everything that a module imports, at the top, in a function or by name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom(module=module, level=level):
                yield "." * level + (module or "")
            case ast.Call(
                func=ast.Name(id="import_module" | "require") | ast.Attribute(attr="import_module" | "require"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def layer(top: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if top in names)


def complaints(sources: dict[str, str]) -> list[str]:
    """Give every import that breaks a rule, in words."""
    tops = {name.split(".")[0] for name in sources}
    unknown = tops - set().union(*LAYERS)
    if unknown:
        return [f"{name}: add it to the table of layers in {Path(__file__).name}" for name in sorted(unknown)]
    pairs = {(name.split(".")[0], imported) for name, source in sources.items() for imported in imports(source)}
    return sorted(f"{top} imports {imported}{why}" for top, imported in pairs if (why := breach(top, imported, tops)))


def breach(top: str, imported: str, tops: set[str]) -> str:
    """Say what is wrong with an import; "" when nothing is."""
    package, target, *_ = [*imported.split("."), ""]
    why = ""
    if not package:
        why = ", a relative name: write it whole"
    elif package != NAME:
        home = HOMES.get(package, {top})
        why = "" if top in home else f", which belongs in {sorted(home)}"
    elif top == "__init__" or (top, target) in POINTS_UP:
        pass  # The front door leads everywhere, lazily; test_package.py holds that.
    elif target not in tops:
        why = " through the package's front door: name the module it lives in"
    elif layer(target) > layer(top):
        why = ", from a layer above it"
    elif {top, target} <= FRONTS and top != target:
        why = ": fronts never import each other"
    return why


def test_the_package_holds_its_layers() -> None:
    assert complaints(modules()) == []


def test_no_two_modules_import_each_other() -> None:
    sources = modules()
    sources.pop("__init__")
    graph: dict[str, set[str]] = {name.split(".")[0]: set() for name in sources}
    for name, source in sources.items():
        top = name.split(".")[0]
        below = (imported.split(".") for imported in imports(source))
        graph[top] |= {parts[1] for parts in below if parts[0] == NAME and parts[1] in graph and parts[1] != top}
        graph[top] -= {target for source, target in POINTS_UP if source == top}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("engine")


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("cache", "from mlx_qwen_embeddings.engine import EmbeddingEngine", "cache imports .* from a layer above it"),
        ("cache", "def f():\n    import mlx_qwen_embeddings.engine", "cache imports .* from a layer above it"),
        ("cache", "from mlx_qwen_embeddings import engine", "cache imports .* from a layer above it"),
        ("cache", "from mlx_qwen_embeddings import get_engine", "front door"),
        ("cache", "from . import errors", "relative name"),
        ("cache", "import mlx.core as mx", "cache imports mlx.core, which belongs in"),
        ("engine", "import importlib\nmx = importlib.import_module('mlx.core')", "engine imports mlx.core"),
        ("llama_index", "from langchain_core.embeddings import Embeddings", "llama_index imports langchain_core"),
        (
            "llama_index",
            "from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings",
            "fronts never import each other",
        ),
        ("models.qwen3", "from mlx_qwen_embeddings.encoder import Encoder", "models imports .* from a layer above it"),
        ("engine", "import torch", "engine imports torch"),
        ("novelty", "", "novelty: add it to the table"),
    ],
)
def test_a_breach_is_found(module: str, source: str, expected: str) -> None:
    found = complaints(modules() | {module: source})
    assert len(found) == 1
    assert re.search(expected, found[0])


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("engine", "from mlx_qwen_embeddings.errors import EngineClosedError"),
        ("models.qwen3", "import mlx.core as mx\nfrom mlx_qwen_embeddings.models.attention import causal_attention"),
        ("demo", "from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings\nimport llama_index.core"),
        ("__init__", "from mlx_qwen_embeddings.engine import EmbeddingEngine"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert complaints(modules() | {module: source}) == []
