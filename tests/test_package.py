"""The package as installed: its version, its public names, what importing it costs, the extras that it names."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest

import mlx_qwen_embeddings

DISTRIBUTION = "mlx-qwen-embeddings"
PACKAGE = Path(mlx_qwen_embeddings.__file__).parent
PROJECT = PACKAGE.parent

HEAVY = {
    "huggingface_hub",
    "langchain",
    "langchain_core",
    "llama_index",
    "mlx",
    "mlx_lm",
    "numpy",
    "pydantic",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))


def imported_by(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter and give the top-level modules that it brought in."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_version_is_the_same_everywhere(pyproject: dict[str, Any]) -> None:
    assert mlx_qwen_embeddings.__version__ == pyproject["project"]["version"] == metadata.version(DISTRIBUTION)


def test_import_loads_neither_mlx_nor_numpy_nor_a_framework() -> None:
    brought = imported_by("import mlx_qwen_embeddings")
    assert "mlx_qwen_embeddings" in brought
    assert brought & HEAVY == set()


def test_the_probe_sees_what_an_import_loads() -> None:
    assert {"mlx_qwen_embeddings", "numpy"} <= imported_by("import mlx_qwen_embeddings.similarity")


@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_an_adapter_loads_no_other_framework(framework: str) -> None:
    other = {"langchain": "llama_index", "llama_index": "langchain_core"}[framework]
    brought = imported_by(f"import mlx_qwen_embeddings.{framework}")
    assert not brought & {other, "mlx_lm", "torch", "transformers"}


def test_every_public_name_can_be_imported_and_is_listed() -> None:
    assert {"EmbeddingEngine", "EngineSettings", "ModelSpec", "get_engine", "list_models", "register"} <= set(
        mlx_qwen_embeddings.__all__
    )
    for name in mlx_qwen_embeddings.__all__:
        assert getattr(mlx_qwen_embeddings, name) is not None
    assert set(mlx_qwen_embeddings.__all__) <= set(dir(mlx_qwen_embeddings))


@pytest.mark.parametrize("name", ["no_such_thing", "_private", "__wrapped__"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(mlx_qwen_embeddings, name)


def test_type_marker_and_embedded_model_are_package_data() -> None:
    package = resources.files(mlx_qwen_embeddings)
    assert (package / "py.typed").is_file()
    assert (package / "nano" / "model.safetensors").is_file()
    assert (package / "nano" / "tokenizer.json").is_file()


def test_every_pip_command_that_users_are_shown_names_extras_that_exist(pyproject: dict[str, Any]) -> None:
    declared = set(pyproject["project"]["optional-dependencies"])
    assert declared == set(metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or [])
    texts = [*PACKAGE.rglob("*.py"), PROJECT / "README.md"]
    source = "\n".join(path.read_text("utf-8") for path in texts)
    literal = re.findall(rf"{DISTRIBUTION}\[([a-z0-9,-]+)\]", source)
    # The command is put together in _extras.py, and its callers name the extra.
    called = re.findall(r'pip_command\("([a-z0-9-]+)"\)|require\("[\w.]+", "([a-z0-9-]+)"', source)
    named = {extra for group in literal for extra in group.split(",")} | {first or second for first, second in called}
    assert {"cpu", "chat-template"} <= named
    assert named <= declared


def test_the_extra_all_includes_every_extra_except_back_ends(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    (requirement,) = extras["all"]
    match = re.fullmatch(rf"{DISTRIBUTION}\[([a-z0-9,-]+)\]", requirement)
    assert match is not None
    assert set(match[1].split(",")) == set(extras) - {"all", "cpu", "cuda12", "cuda13"}
