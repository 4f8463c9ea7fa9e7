"""Chroma without a framework: its protocol, what a collection keeps, and a collection opened by another process."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.api import ClientAPI
from chromadb.config import Settings
from chromadb.utils.embedding_functions import config_to_embedding_function

from mlx_qwen_embeddings import get_engine
from mlx_qwen_embeddings.chroma import NAME, MLXQwenEmbeddingFunction
from mlx_qwen_embeddings.errors import IndexMismatchError, UnknownModelError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.four_passages import PASSAGES, QUESTIONS

IDS = [str(row) for row in range(len(PASSAGES))]
TASK = "Given a question, find the answer"


def closed(client: ClientAPI) -> None:
    getattr(client, "close", lambda: None)()  # it came with a later version than the oldest that is taken


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientAPI]:
    client = chromadb.PersistentClient(str(tmp_path / "db"), Settings(anonymized_telemetry=False))
    yield client
    closed(client)


def make(client: ClientAPI, function: Any) -> chromadb.Collection:  # Chroma's type asks for functions of images, too
    collection = client.create_collection("notes", embedding_function=function)
    collection.add(ids=IDS, documents=PASSAGES)
    return collection


def best(collection: chromadb.Collection) -> list[str]:
    found = collection.query(query_texts=list(QUESTIONS), n_results=1)
    return [ids[0] for ids in found["ids"]]


ANSWERS = [str(row) for row in QUESTIONS.values()]


def test_documents_and_queries_get_their_own_prompts(client: ClientAPI) -> None:
    function = MLXQwenEmbeddingFunction("nano", query_instruction=TASK, dimensions=96)
    engine = get_engine("nano")
    documents, queries = (
        engine.embed_documents(PASSAGES, dimensions=96),
        engine.embed_queries(QUESTIONS, instruction=TASK, dimensions=96),
    )
    np.testing.assert_allclose(function(PASSAGES), documents, atol=1e-6)
    np.testing.assert_allclose(function.embed_query(list(QUESTIONS)), queries, atol=1e-6)
    collection = make(client, function)
    stored = collection.get(include=["embeddings"])["embeddings"]
    np.testing.assert_allclose(np.array(stored), documents, atol=1e-6)
    found = collection.query(query_texts=[next(iter(QUESTIONS))], n_results=4, include=["distances"])
    expected = sorted(1 - queries[0] @ documents.T)
    np.testing.assert_allclose(found["distances"][0], expected, atol=1e-5)  # type: ignore[index]
    assert collection.configuration_json["hnsw"]["space"] == "cosine"
    assert best(collection) == ANSWERS


def test_each_role_gets_its_own_prompt(prompted: str) -> None:
    # Without an instruction: with one, queries and documents get the same prompt.
    function, engine = MLXQwenEmbeddingFunction(prompted), get_engine(prompted)
    documents, queries = engine.embed_documents(PASSAGES), engine.embed_queries(PASSAGES)
    assert np.abs(documents - queries).max() > 1e-3
    np.testing.assert_array_equal(function(PASSAGES), documents)
    np.testing.assert_array_equal(function.embed_query(PASSAGES), queries)


def test_the_config_makes_the_same_function() -> None:
    function = MLXQwenEmbeddingFunction("nano", query_instruction=TASK, dimensions=96, timeout=60, device="cpu")
    config = json.loads(json.dumps(function.get_config()))
    again = config_to_embedding_function({"name": NAME, "config": config})
    assert isinstance(again, MLXQwenEmbeddingFunction)
    assert again.get_config() == config
    assert again.options.model_dump() == function.options.model_dump() | {"timeout": None, "device": None}
    function.validate_config(config)
    for wrong in ({"model": "nano", "dimension": 3}, {"model": "nano", "dimensions": 0}, {"model": "nan"}):
        with pytest.raises((ValueError, UnknownModelError)):
            function.validate_config(wrong)


@pytest.mark.parametrize("given", [False, True])
def test_a_collection_opened_again(client: ClientAPI, tmp_path: Path, *, given: bool) -> None:
    make(client, MLXQwenEmbeddingFunction("nano", query_instruction=TASK, dimensions=96))
    arguments = 'embedding_function=MLXQwenEmbeddingFunction("nano", dimensions=96)' if given else ""
    closed(client)
    program = f"""
import chromadb, json, sys
from mlx_qwen_embeddings.chroma import MLXQwenEmbeddingFunction
client = chromadb.PersistentClient(sys.argv[1], chromadb.Settings(anonymized_telemetry=False))
collection = client.get_collection("notes", {arguments})
found = collection.query(query_texts=json.loads(sys.argv[2]), n_results=1)
print(json.dumps([ids[0] for ids in found["ids"]]))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "db"), json.dumps(list(QUESTIONS))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == ANSWERS


def test_a_changed_model_is_refused(client: ClientAPI, tmp_path: Path) -> None:
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "model")
    function = MLXQwenEmbeddingFunction(str(folder))
    make(client, function)
    # What a collection says that was made with other weights under that name.
    config = function.get_config()
    said = json.loads(config["mlx_qwen_embeddings"])
    config["mlx_qwen_embeddings"] = json.dumps(said | {"content": "0" * 16})
    with pytest.raises(
        IndexMismatchError, match=r"other files of the model .*: embed with the same, or build another store"
    ):
        MLXQwenEmbeddingFunction.build_from_config(config)
    with pytest.raises(ValueError, match="other files of the model"):
        config_to_embedding_function({"name": NAME, "config": config})


def test_a_collection_whose_models_files_were_replaced(client: ClientAPI, tmp_path: Path) -> None:
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "model")
    make(client, MLXQwenEmbeddingFunction(str(folder)))
    closed(client)
    pooling = Path(folder) / "1_Pooling" / "config.json"
    modes = json.loads(pooling.read_text())
    pooling.write_text(json.dumps(modes | {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}))
    program = """
import chromadb, sys
import mlx_qwen_embeddings.chroma
client = chromadb.PersistentClient(sys.argv[1], chromadb.Settings(anonymized_telemetry=False))
client.get_collection("notes").query(query_texts=["a"])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "db")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"the collection holds vectors made with other files of the model '{folder}'" in ended.stderr


def test_check_finds_what_chroma_overlooks(client: ClientAPI) -> None:
    collection = make(client, MLXQwenEmbeddingFunction("nano"))
    MLXQwenEmbeddingFunction("nano", query_instruction=TASK).check(collection)
    wanted = "the collection 'notes' holds vectors made with pooling 'native', not 'mean'"
    with pytest.raises(IndexMismatchError, match=wanted):
        MLXQwenEmbeddingFunction("nano", pooling="mean").check(collection)
    plain = client.create_collection("plain", embedding_function=None)
    with pytest.raises(IndexMismatchError, match="'plain' does not say which model"):
        MLXQwenEmbeddingFunction("nano").check(plain)


@pytest.mark.parametrize(
    ("fields", "refused"), [({"query_instruction": TASK}, ""), ({"dimensions": 64}, "dimensions 384, not 64")]
)
def test_updates_that_are_allowed_and_refused(client: ClientAPI, fields: dict[str, Any], refused: str) -> None:
    collection = make(client, MLXQwenEmbeddingFunction("nano"))
    other = MLXQwenEmbeddingFunction("nano", **fields)
    if refused:
        with pytest.raises(IndexMismatchError, match=refused):
            collection.modify(configuration={"embedding_function": other})
        return
    collection.modify(configuration={"embedding_function": other})
    kept = client.get_collection("notes").configuration_json["embedding_function"]["config"]
    assert kept["query_instruction"] == TASK
