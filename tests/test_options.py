"""One table of options: adding an option there adds it to every adapter, request, flag and key."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mlx_qwen_embeddings
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.options import OPTIONS, CallOptions, EmbedOptions, SharedArguments, SharedOptions, key_values

PACKAGE = Path(mlx_qwen_embeddings.__file__).parent

PROGRAM = """
import json, sys
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner
from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import embed_parquet
from mlx_qwen_embeddings.chroma import MLXQwenEmbeddingFunction
from mlx_qwen_embeddings.cli.app import app
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from mlx_qwen_embeddings.search.database import shaping_fields
from mlx_qwen_embeddings.server.routes.openai import EmbeddingsRequest
from mlx_qwen_embeddings.server.routes.simple import EmbedRequest
from mlx_qwen_embeddings.stores import KEY, stamp

folder = Path(sys.argv[1])
plain, chain, index = MLXQwenEmbeddings("nano"), MLXQwenEmbeddings("nano", shade=7), MLXQwenEmbedding("nano", shade=7)
engine = EmbeddingEngine("nano")
engine.embed_documents(["a"])
engine.embed_documents(["a"], shade=7)
pq.write_table(pa.table({"text": ["a"]}), folder / "in.parquet")
embed_parquet(folder / "in.parquet", folder / "out", model=engine, shade=7)

def served(request, **fields):
    try:
        return request(**fields).options["shade"]
    except ValueError:
        return None

keys = {
    "cache": engine.stats().cache_misses == 2,
    "fingerprint": chain.fingerprint != plain.fingerprint,
    "stamp": json.loads(stamp(chain)[KEY]).get("shade") == 7,
    "index": shaping_fields(chain).get("shade") == 7,
    "manifest": json.loads((folder / "out/_job/manifest.json").read_text())["job"].get("shade") == 7,
    "pipeline": index.to_dict().get("shade") == 7,
    "collection": MLXQwenEmbeddingFunction("nano", shade=7).get_config().get("shade") == 7,
}
found = {
    "calls": [options.call_options("document")["shade"] for options in (chain, index)],
    "described": type(chain).model_fields["shade"].description,
    "server": [served(EmbedRequest, text="a", shade=7), served(EmbeddingsRequest, input="a", model="nano", shade=7)],
    "flags": ["--shade" in CliRunner().invoke(app, [name, "--help"]).output for name in ("embed", "bulk", "compare")],
    "keys": sorted(name for name in keys if keys[name]),
}
print(json.dumps(found))
"""

ALL_KEYS = ["cache", "collection", "fingerprint", "index", "manifest", "pipeline", "stamp"]


def with_another_option(folder: Path, effect: str) -> Path:
    """Make a copy of the package in which the file of the options, and nothing else, is changed."""
    copy = folder / "copy" / PACKAGE.name
    copy.mkdir(parents=True)
    for entry in PACKAGE.iterdir():
        if entry.name not in {"options.py", "__pycache__"}:
            (copy / entry.name).symlink_to(entry)
    field = f'    shade: int = _option(0, "{effect}", "How dark a vector is.")\n'
    source = (PACKAGE / "options.py").read_text("utf-8")
    for anchor, added in (
        ("    timeout: float | None = _option(", field),
        ("    timeout: float | None\n", "    shade: int\n"),
    ):
        assert source.count(anchor) == 1
        source = source.replace(anchor, added + anchor)
    (copy / "options.py").write_text(source, "utf-8")
    return copy.parent


@pytest.mark.parametrize(
    ("effect", "keys"),
    [
        ("computed", ALL_KEYS),
        ("returned", [name for name in ALL_KEYS if name != "cache"]),
        ("refused", ["collection", "manifest", "pipeline"]),
        ("run", []),
    ],
)
def test_an_option_is_added_in_one_file(tmp_path: Path, effect: str, keys: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(with_another_option(tmp_path, effect)), "COLUMNS": "200"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    of_the_run = effect == "run"
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "calls": [7, 7],
        "described": "How dark a vector is.",
        "server": [None, None] if of_the_run else [7, 7],
        "flags": [not of_the_run] * 3,
        "keys": keys,
    }


@pytest.mark.parametrize(("made", "arguments"), [(SharedOptions, SharedArguments), (EmbedOptions, CallOptions)])
def test_the_keyword_arguments_are_those_of_the_options(made: Any, arguments: Any) -> None:
    assert {field.name: field.type for field in dataclasses.fields(made)} == arguments.__annotations__


def test_every_option_is_documented() -> None:
    assert all(
        option.help.endswith(".") and f"{name}: {option.help}" in str(EmbedOptions.__doc__)
        for name, option in OPTIONS.items()
    )


def test_a_key_has_what_was_given_and_no_option_of_the_run() -> None:
    options = EmbedOptions(dimensions=8, instruction="Find it", truncate="error", timeout=3, wait=False, show_progress=True)
    assert key_values(options, "computed") == {"instruction": "Find it"}
    assert key_values(options, "computed", "returned") == {"dimensions": 8, "instruction": "Find it"}
    assert key_values(options, "computed", "returned", "refused") == {
        "dimensions": 8,
        "instruction": "Find it",
        "truncate": "error",
    }
    assert key_values(EmbedOptions(), "computed", "returned", "refused") == {}


def test_an_adapter_asks_for_what_shapes_its_vectors() -> None:
    embeddings = MLXQwenEmbeddings("nano", query_instruction="Find it", pooling="mean", timeout=60)
    assert embeddings.vector_options("query") == {"instruction": "Find it", "pooling": "mean"}
    assert embeddings.vector_options("document") == {"pooling": "mean"}
