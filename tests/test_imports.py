"""Which modules an import and a first vector load; how long they take is measured in benchmarks/engine.py."""

import subprocess
import sys

import pytest

FRAMEWORKS = ["langchain", "langchain_core", "llama_index", "transformers", "torch", "mlx_lm", "sentence_transformers"]
PRINT_LOADED = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def loaded_by(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{PRINT_LOADED}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_alone_brings_in_none_of_what_it_uses() -> None:
    loaded = loaded_by("import mlx_qwen_embeddings")
    assert loaded & {"mlx", "numpy", "pydantic", "tokenizers", "huggingface_hub", "tqdm", "jinja2", *FRAMEWORKS} == set()


@pytest.mark.parametrize("name", ["list_models", "errors", "EngineSettings", "similarity"])
def test_what_needs_no_model_brings_in_no_mlx(name: str) -> None:
    assert loaded_by(f"from mlx_qwen_embeddings import {name}") & {"mlx", "huggingface_hub", *FRAMEWORKS} == set()


def test_an_engine_that_is_only_made_brings_in_no_mlx() -> None:
    loaded = loaded_by("from mlx_qwen_embeddings import get_engine; get_engine('nano')")
    assert loaded & {"mlx", "huggingface_hub", "tqdm", "jinja2", *FRAMEWORKS} == set()


def test_a_vector_brings_in_no_framework() -> None:
    loaded = loaded_by("from mlx_qwen_embeddings import get_engine; get_engine('nano').embed_query('a')")
    assert "mlx" in loaded
    assert loaded & {"huggingface_hub", "tqdm", "jinja2", *FRAMEWORKS} == set()
