"""OpenAI's own client, LangChain's and LlamaIndex's against a real server."""

import base64
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.options import Precision
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from tests.support.server_process import ServerProcess, serving

Format = Literal["float", "base64"] | openai.Omit
FORMATS: list[Format] = [openai.omit, "float"]
"""When the format is omitted, OpenAI's client asks for base64 and decodes it."""
TEXTS = ["Tides follow the moon.", "The cat sleeps.", "Où est la gare ? 駅はどこですか。"]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none needed", max_retries=0)


def assert_same(found: object, wanted: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(np.array(found), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("encoding_format", FORMATS)
def test_vectors_are_the_engines(client: openai.OpenAI, engine: EmbeddingEngine, encoding_format: Format) -> None:
    found = client.embeddings.create(model="nano", input=TEXTS, encoding_format=encoding_format)
    assert_same([item.embedding for item in found.data], engine.embed_documents(TEXTS))
    assert [item.index for item in found.data] == [0, 1, 2]
    assert found.model == "nano"
    assert found.usage.prompt_tokens == found.usage.total_tokens == sum(engine.count_tokens(TEXTS))


def test_base64_is_little_endian_float32(client: openai.OpenAI, engine: EmbeddingEngine) -> None:
    found = client.embeddings.create(model="nano", input=TEXTS[0], encoding_format="base64")
    raw = base64.b64decode(str(found.data[0].embedding))
    assert_same(np.frombuffer(raw, "<f4"), engine.embed_documents(TEXTS[:1])[0])


async def test_the_asynchronous_client(server: ServerProcess, engine: EmbeddingEngine) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        found = await client.embeddings.create(model="nano", input=TEXTS[1], dimensions=64)
    assert_same(found.data[0].embedding, engine.embed_documents(TEXTS[1:2], dimensions=64)[0])


@pytest.mark.parametrize(("model", "role"), [("nano:query", None), ("nano", "query"), ("NANO:query", "query")])
def test_the_role_is_taken_from_the_name_or_a_field(
    client: openai.OpenAI, engine: EmbeddingEngine, model: str, role: str | None
) -> None:
    extra = {"instruction": "Find the sea", "role": role}
    found = client.embeddings.create(model=model, input=TEXTS, extra_body=extra)
    assert_same([item.embedding for item in found.data], engine.embed_queries(TEXTS, instruction="Find the sea"))
    assert found.model == model


@pytest.mark.parametrize("encoding_format", FORMATS)
@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_reduced_precision_reaches_the_client_in_either_format(
    client: openai.OpenAI, engine: EmbeddingEngine, precision: Precision, encoding_format: Format
) -> None:
    found = client.embeddings.create(
        model="nano", input=TEXTS, dimensions=36, encoding_format=encoding_format, extra_body={"precision": precision}
    )
    wanted = quantize(engine.embed_documents(TEXTS, dimensions=36), precision, unit_ranges(36))
    off = np.abs(np.array([item.embedding for item in found.data]) - wanted.astype(np.float64))
    assert off.shape == wanted.shape
    assert off.max() <= (1 if "int" in precision else 2e-4)
    assert (off > 2e-4).mean() < 0.01


def test_token_ids_are_refused_with_the_remedy(client: openai.OpenAI) -> None:
    inputs: list[Any] = [[1, 2, 3], [[1, 2], [3]]]
    for ids in inputs:
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
            client.embeddings.create(model="nano", input=ids)
        assert (caught.value.code, caught.value.param) == ("token_ids_refused", "input")


def test_an_unknown_model_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'text-embedding-3-small' is not served here: small, "):
        client.embeddings.create(model="text-embedding-3-small", input="a")


def test_a_text_that_is_too_long_is_truncated_or_refused(client: openai.OpenAI, engine: EmbeddingEngine) -> None:
    found = client.embeddings.create(model="nano", input="tide " * 3000)
    assert found.usage.prompt_tokens == engine.max_length
    with pytest.raises(openai.BadRequestError, match=r"has 300\d tokens") as caught:
        client.embeddings.create(model="nano", input="tide " * 3000, extra_body={"truncate": "error"})
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


def test_models_are_listed(client: openai.OpenAI, engine: EmbeddingEngine) -> None:
    found = {model.id: model.to_dict() for model in client.models.list()}
    assert {"small", "medium", "large", "nano"} <= set(found)
    nano = found["nano"]
    assert (nano["dimensions"], nano["max_length"], nano["pooling"]) == (384, engine.max_length, "last")
    assert (nano["dtype"], nano["loaded"], found["small"]["loaded"]) == ("float32", True, False)
    assert found["small"]["aliases"] == ["0.6b", "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"]


def test_a_model_is_retrieved_by_any_of_its_names(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    for name, wanted in (
        ("nano", "nano"),
        ("nano:query", "nano"),
        ("mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ", "small"),
    ):
        assert client.models.retrieve(name) == listed[wanted]
    assert httpx.get(f"{client.base_url}models/", follow_redirects=True).json() == client.models.list().to_dict()
    with pytest.raises(openai.NotFoundError, match="'gpt-4' is not served here: small, "):
        client.models.retrieve("gpt-4")


def test_langchain_as_in_the_readme(server: ServerProcess, engine: EmbeddingEngine) -> None:
    from langchain_classic.embeddings import init_embeddings
    from langchain_openai import OpenAIEmbeddings

    options: dict[str, Any] = {"base_url": f"{server.url}/v1", "api_key": "none", "check_embedding_ctx_length": False}
    made: list[Any] = [OpenAIEmbeddings(model="nano", **options), init_embeddings("openai:nano", **options)]
    for embeddings in made:
        assert_same(embeddings.embed_documents(TEXTS), engine.embed_documents(TEXTS))
        assert_same(embeddings.embed_query(TEXTS[0]), engine.embed_query(TEXTS[0]))


def test_langchain_sending_token_ids_is_told_what_to_set(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(model="nano", base_url=f"{server.url}/v1", api_key=SecretStr("none"), max_retries=0)
    # LangChain would download its own tokenizer.
    monkeypatch.setattr(OpenAIEmbeddings, "_tokenize", lambda *_: ([0], [[17, 4]], [0], [2]))
    with pytest.raises(openai.BadRequestError, match=r"OpenAIEmbeddings\(check_embedding_ctx_length=False\)"):
        embeddings.embed_documents(["a"])


def test_llama_index_as_in_the_readme(server: ServerProcess, engine: EmbeddingEngine) -> None:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embedding = OpenAILikeEmbedding(model_name="nano", api_base=f"{server.url}/v1", api_key="none")
    assert_same(embedding.get_text_embedding_batch(TEXTS), engine.embed_documents(TEXTS))
    assert_same(embedding.get_query_embedding(TEXTS[0]), engine.embed_query(TEXTS[0]))
