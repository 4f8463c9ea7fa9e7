"""Both adapters: names, defaults, checks, copies, fingerprints, and the engine that they share."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mlx_qwen_embeddings import get_engine
from mlx_qwen_embeddings._adapter import AdapterFields
from mlx_qwen_embeddings.errors import UnknownModelError
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.llama_index import LlamaIndexFields, MLXQwenEmbedding
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.bpe_tokenizer import ENTRIES, write_bpe
from tests.support.checkpoints import Shape, random_weights, write_checkpoint

Adapter = Any  # the tests pass what the classes' types refuse
Embed = Callable[[list[str]], list[list[float]]]

TEXTS = ["The cat sat on the mat.", "Prices rose by 3 % in May.", "The cat sat on the mat."]

both = pytest.mark.parametrize("adapter", [MLXQwenEmbeddings, MLXQwenEmbedding])


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "DEVICE", "DTYPE", "REVISION"):
        monkeypatch.delenv(f"MLX_QWEN_{name}", raising=False)


def of_documents(embeddings: Any) -> Embed:
    return embeddings.embed_documents if isinstance(embeddings, MLXQwenEmbeddings) else embeddings.get_text_embedding_batch


def of_queries(embeddings: Any) -> Embed:
    one = embeddings.embed_query if isinstance(embeddings, MLXQwenEmbeddings) else embeddings.get_query_embedding
    return lambda texts: [one(text) for text in texts]


@both
@pytest.mark.parametrize("given", [{"model": "nano"}, {"model_name": "nano"}, {"model": "nano", "model_name": "nano"}])
def test_the_name_is_given_as_model_or_as_model_name(adapter: Adapter, given: dict[str, str]) -> None:
    embeddings = adapter(**given)
    assert embeddings.model == embeddings.model_name == "nano"
    assert adapter("nano").model_dump() == embeddings.model_dump()


@both
@pytest.mark.parametrize("name", ["model", "model_name"])
def test_a_folder_may_be_a_path(adapter: Adapter, name: str) -> None:
    embeddings = adapter(**{name: NANO_FOLDER})
    assert embeddings.model == embeddings.model_name == str(NANO_FOLDER)
    assert adapter(model=NANO_FOLDER, model_name=str(NANO_FOLDER)).model == str(NANO_FOLDER)


@both
def test_float16_is_refused_with_the_reason(adapter: Adapter) -> None:
    with pytest.raises(ValidationError, match=r"overflows to NaN.*use 'bfloat16' or 'float32'"):
        adapter(model="nano", dtype="float16")


@both
def test_two_different_names_are_refused(adapter: Adapter) -> None:
    with pytest.raises(ValueError, match=r"'nano'.*'small'.*give one"):
        adapter(model="nano", model_name="small")


@both
def test_the_default_is_small_unless_the_environment_says_otherwise(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert adapter().model == adapter(model=None).model == "small"
    monkeypatch.setenv("MLX_QWEN_MODEL", "nano")
    assert adapter().model == adapter().model_name == "nano"
    assert adapter(model="medium").model == "medium"


@both
def test_an_unknown_model_is_named_with_a_suggestion(adapter: Adapter) -> None:
    with pytest.raises(UnknownModelError, match=r"unknown model 'smal'\. Did you mean 'small'"):
        adapter(model="smal")


@both
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model", 3),
        ("dimensions", 0),
        ("dimensions", True),
        ("dimensions", 385),
        ("max_length", 2049),
        ("max_length", -1),
        ("pooling", "cls"),
        ("truncate", "start"),
        ("timeout", 0),
        ("dtype", "float16"),
        ("device", "tpu"),
        ("query_instruction", 1),
        ("dimension", 64),
    ],
)
def test_a_bad_value_fails_at_construction_and_is_named(adapter: Adapter, field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        adapter(**{"model": "nano"} | {field: value})


@both
def test_every_field_is_documented_and_typed_for_callers(adapter: Adapter) -> None:
    fields = set(adapter.model_fields) - {"model", "model_name"}
    typed = AdapterFields if adapter is MLXQwenEmbeddings else LlamaIndexFields
    newer = {"rate_limiter"}  # a field of LlamaIndex that its oldest supported version lacks
    assert fields - newer == set(typed.__annotations__) - newer
    inherited = {"callback_manager"}  # a field of LlamaIndex that it does not document
    assert [name for name in adapter.model_fields if not adapter.model_fields[name].description] == [
        name for name in adapter.model_fields if name in inherited
    ]


@both
def test_the_options_of_a_call_are_fields(adapter: Adapter) -> None:
    of_a_role, of_servers = {"instruction"}, {"wait"}
    assert set(CallOptions.__annotations__) - of_a_role - of_servers <= set(adapter.model_fields)
    assert {"query_instruction", "document_instruction"} <= set(adapter.model_fields)


@both
def test_every_option_of_a_call_is_passed_on(adapter: Adapter) -> None:
    given: dict[str, Any] = {
        "dimensions": 64,
        "normalize": False,
        "precision": "float16",
        "pooling": "mean",
        "max_length": 99,
        "truncate": "error",
        "chat_template": "{{ messages[0].content }} !",
        "timeout": 60.0,
        "show_progress": True,
    }
    assert set(given) == set(CallOptions.__annotations__) - {"instruction", "wait"}
    embeddings = adapter("nano", query_instruction="Find it", document_instruction="Read it", **given)
    assert embeddings.call_options("document") == given | {"instruction": "Read it"}
    assert embeddings.call_options("query") == given | {"instruction": "Find it", "show_progress": False}


@both
async def test_each_role_gets_its_own_prompt(adapter: Adapter, prompted: str) -> None:
    # Without an instruction: with one, queries and documents get the same prompt.
    embeddings, engine = adapter(prompted), get_engine(prompted)
    documents, queries = engine.embed_documents(TEXTS), engine.embed_queries(TEXTS)
    assert np.abs(documents - queries).max() > 1e-3
    np.testing.assert_array_equal(of_documents(embeddings)(TEXTS), documents)
    np.testing.assert_array_equal(of_queries(embeddings)(TEXTS), queries)
    if isinstance(embeddings, MLXQwenEmbeddings):
        np.testing.assert_array_equal(await embeddings.aembed_documents(TEXTS), documents)
        np.testing.assert_array_equal(await embeddings.aembed_query(TEXTS[0]), queries[0])
    else:
        np.testing.assert_array_equal(await embeddings.aget_text_embedding_batch(TEXTS), documents)
        np.testing.assert_array_equal(await embeddings.aget_query_embedding(TEXTS[0]), queries[0])


@both
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dimensions": 64},
        {"normalize": False},
        {"pooling": "mean"},
        {"max_length": 5},
        {"chat_template": "{{ messages[0].content }} !"},
        {"dimensions": 32, "normalize": False, "pooling": "max"},
    ],
)
def test_vectors_are_the_engines(adapter: Adapter, options: dict[str, Any]) -> None:
    embeddings = adapter("nano", **options)
    documents = get_engine("nano").embed_documents(TEXTS, **options)
    queries = get_engine("nano").embed_queries(TEXTS, **options)
    np.testing.assert_array_equal(of_documents(embeddings)(TEXTS), documents)
    np.testing.assert_array_equal(of_queries(embeddings)(TEXTS), queries)


@both
@pytest.mark.parametrize("role", ["query", "document"])
def test_an_instruction_changes_only_the_vectors_of_its_role(adapter: Adapter, role: str) -> None:
    task = "Given a headline, find the {article} below it"
    embed, embed_other = (of_queries, of_documents) if role == "query" else (of_documents, of_queries)
    plain, instructed = adapter("nano"), adapter("nano", **{f"{role}_instruction": task})
    written_out = get_engine("nano").embed_documents([f"Instruct: {task}\nQuery:{text}" for text in TEXTS])
    np.testing.assert_allclose(embed(instructed)(TEXTS), written_out, atol=1e-5)
    assert np.abs(np.subtract(embed(instructed)(TEXTS), embed(plain)(TEXTS))).max() > 1e-2
    np.testing.assert_array_equal(embed_other(instructed)(TEXTS), embed_other(plain)(TEXTS))


@both
def test_text_is_never_edited(adapter: Adapter, tmp_path: Path) -> None:
    shape = Shape(vocab_size=ENTRIES)
    # nano's tokenizer reads all white space as a space; this one keeps it apart.
    folder = write_checkpoint(tmp_path, random_weights(shape), shape.config())
    write_bpe(folder / "tokenizer.json")
    texts = ["a cat sat", "a cat\nsat", "a cat  sat", "a cat\tsat", " a cat sat", "a cat sat\n", "\n", ""]
    vectors = np.array(of_documents(adapter(str(folder)))(texts))
    np.testing.assert_array_equal(vectors, get_engine(str(folder)).embed_documents(texts))
    distances = np.abs(vectors[:, None] - vectors[None]).max(axis=-1)
    assert (distances[~np.eye(len(texts), dtype=bool)] > 1e-3).all()


def pickled(item: Any) -> Any:
    return pickle.loads(pickle.dumps(item))  # noqa: S301 - its own bytes


@both
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_is_equal_and_uses_the_same_engine(adapter: Adapter, duplicate: Callable[[Any], Any]) -> None:
    embeddings = adapter("nano", dimensions=48, query_instruction="Find it", timeout=30.0)
    vectors = of_queries(embeddings)(TEXTS)
    twin = duplicate(embeddings)
    assert twin.model_dump() == embeddings.model_dump()
    assert twin.engine is embeddings.engine
    assert of_queries(twin)(TEXTS) == vectors


@both
def test_a_closed_engine_is_replaced_by_a_new_one(adapter: Adapter) -> None:
    embeddings = adapter("nano", device="cpu")  # an engine that no other test holds
    before = of_documents(embeddings)(TEXTS)
    embeddings.engine.close()
    np.testing.assert_allclose(of_documents(embeddings)(TEXTS), before, atol=1e-6)


@both
@pytest.mark.parametrize(
    "change",
    [
        {"dimensions": 64},
        {"query_instruction": "Find it"},
        {"query_instruction": ""},
        {"document_instruction": "Find it"},
        {"normalize": False},
        {"pooling": "mean"},
        {"max_length": 100},
        {"chat_template": "{{ messages[0].content }}"},
        {"dtype": "bfloat16"},
    ],
)
def test_the_fingerprint_changes_with_what_shapes_vectors(adapter: Adapter, change: dict[str, Any]) -> None:
    assert adapter("nano", **change).fingerprint != adapter("nano").fingerprint


def test_the_fingerprint_is_the_same_for_the_same_vectors(tmp_path: Path) -> None:
    fingerprint = MLXQwenEmbeddings("nano").fingerprint
    assert len(fingerprint) == 16
    assert int(fingerprint, 16) >= 0
    copied = shutil.copytree(NANO_FOLDER, tmp_path / "copied")
    for same in (
        MLXQwenEmbedding("nano"),
        MLXQwenEmbeddings("nano", timeout=3, show_progress=True, truncate="error", max_length=2048),
        MLXQwenEmbeddings(str(copied), device="cpu", dtype="float32"),
    ):
        assert same.fingerprint == fingerprint


def test_the_fingerprint_follows_the_content_of_a_folder(tmp_path: Path) -> None:
    copied = shutil.copytree(NANO_FOLDER, tmp_path / "copied")
    (copied / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "ask: "}}), "utf-8")
    assert MLXQwenEmbeddings(str(copied)).fingerprint != MLXQwenEmbeddings("nano").fingerprint


def run(program: str) -> Any:
    """Run a program in a fresh interpreter and return what it prints as JSON."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["langchain.MLXQwenEmbeddings", "llama_index.MLXQwenEmbedding"])
def test_construction_loads_nothing(name: str) -> None:
    module, adapter = name.split(".")
    program = f"""
import json, sys, threading
from mlx_qwen_embeddings.{module} import {adapter} as Adapter
embeddings = Adapter("nano", dimensions=64)
embeddings.engine
print(json.dumps(["mlx.core" in sys.modules, [thread.name for thread in threading.enumerate()]]))
"""
    assert run(program) == [False, ["MainThread"]]


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [("langchain", "langchain_core", "langchain"), ("llama_index", "llama_index", "llama-index")],
)
def test_a_missing_framework_is_named_with_the_pip_command(module: str, missing: str, extra: str) -> None:
    program = f"""
import json, sys
sys.modules["{missing}"] = None
try:
    import mlx_qwen_embeddings.{module}
except ImportError as error:
    print(json.dumps([type(error).__name__, str(error), type(error.__cause__).__name__]))
"""
    kind, message, cause = run(program)
    assert kind == "MissingExtraError"
    assert f'pip install "mlx-qwen-embeddings[{extra}]"' in message
    assert cause == "ModuleNotFoundError"


def test_both_adapters_share_one_engine_and_the_weights_are_in_memory_once() -> None:
    program = """
import json, threading
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.llama_index import MLXQwenEmbedding
from mlx_qwen_embeddings.registry import NANO_FOLDER

first = MLXQwenEmbeddings("nano")
first.embed_documents(["one"])
alone = first.engine.stats().memory_bytes
second = MLXQwenEmbeddings(str(NANO_FOLDER), dimensions=64, query_instruction="Find it")
third = MLXQwenEmbedding("nano", document_instruction="Read it", pooling="mean")
second.embed_query("two")
third.get_text_embedding("three")
third.get_query_embedding("four")
workers = [thread for thread in threading.enumerate() if thread.name == "mlx-qwen-worker"]
same = first.engine is second.engine is third.engine
print(json.dumps([same, len(workers), alone, first.engine.stats().memory_bytes]))
"""
    same, workers, alone, together = run(program)
    assert same
    assert workers == 1
    weights = (NANO_FOLDER / "model.safetensors").stat().st_size
    assert alone > weights  # else nothing was measured
    assert together - alone < weights / 10
