"""What a server needs of an engine: tokens and cache hits of each text, token ids, and calls that do not wait."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.errors import EngineBusyError
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.checkpoints import NANO_ENTRIES
from tests.support.fake_encoder import PATIENCE, WatchedEncoder

TEXTS = ["Tides follow the moon.", "The cat sleeps.", "Tides follow the moon."]


@pytest.fixture
def engine() -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine("nano") as engine:
        yield engine


def ids_of(*texts: str) -> list[list[int]]:
    encoded = ModelFiles(NANO_FOLDER).tokenizer().encode(texts, max_length=512)
    return [tokens.ids.tolist() for tokens in encoded]


async def test_tokens_and_cache_hits_of_each_text(engine: EmbeddingEngine) -> None:
    first = await engine.aembed(TEXTS)
    assert first.tokens.tolist() == engine.count_tokens(TEXTS)
    assert first.cached.tolist() == [False] * 3
    again = await engine.aembed(["new", *TEXTS[:2]], "document")
    assert again.cached.tolist() == [False, True, True]
    np.testing.assert_array_equal(again.vectors[1:], first.vectors[:2])
    np.testing.assert_array_equal(first.vectors, engine.embed_documents(TEXTS))


async def test_tokens_are_counted_with_the_prompt_and_after_the_cut(engine: EmbeddingEngine) -> None:
    found = await engine.aembed(["tide " * 40], "query", instruction="Find the sea", max_length=30)
    assert found.tokens.tolist() == [30]
    np.testing.assert_array_equal(
        found.vectors, engine.embed_queries(["tide " * 40], instruction="Find the sea", max_length=30)
    )
    assert (await engine.aembed([])).vectors.shape == (0, 384)


@pytest.mark.parametrize("ending", [True, False])
@pytest.mark.parametrize("role", ["query", "document"])
async def test_ids_give_the_vectors_of_their_text(engine: EmbeddingEngine, role: Role, *, ending: bool) -> None:
    ids = ids_of(*TEXTS[:2])
    found = await engine.aembed(
        ids if ending else [row[:-1] for row in ids],
        role,
        token_ids=True,
        instruction="Find: it",
    )
    wanted = await engine.aembed(TEXTS[:2], role, instruction="Find: it")
    np.testing.assert_allclose(found.vectors, wanted.vectors, atol=1e-5)
    assert found.tokens.tolist() == wanted.tokens.tolist()


async def test_ids_and_text_never_share_a_cache_entry(engine: EmbeddingEngine) -> None:
    await engine.aembed(["17 24"])
    assert (await engine.aembed([[17, 24]], token_ids=True)).cached.tolist() == [False]
    assert (await engine.aembed([[17, 24]], token_ids=True)).cached.tolist() == [True]


async def test_ids_are_cut_before_their_end_token(engine: EmbeddingEngine) -> None:
    ids = ids_of("tide " * 40)
    found = await engine.aembed(ids, token_ids=True, max_length=20)
    wanted = await engine.aembed(["tide " * 40], max_length=20)
    np.testing.assert_allclose(found.vectors, wanted.vectors, atol=1e-5)


@pytest.mark.parametrize("number", [-1, NANO_ENTRIES, 10**12])
async def test_an_unknown_token_id_is_refused_with_its_position(engine: EmbeddingEngine, number: int) -> None:
    with pytest.raises(
        ValueError, match=rf"texts\[1\]\[0\] is the token id {number}, and .* between 0 and {NANO_ENTRIES - 1}"
    ):
        await engine.aembed([[3], [number]], token_ids=True)


@pytest.mark.parametrize("bad", [1.5, True, "7", None, [3]], ids=repr)
async def test_anything_but_a_token_id_is_refused_with_its_position(engine: EmbeddingEngine, bad: object) -> None:
    with pytest.raises(TypeError, match=rf"texts\[1\]\[2\] must be a token id, a whole number, got {re.escape(repr(bad))}"):
        await engine.aembed([[3], [4, 5, bad]], token_ids=True)


async def test_absurdly_large_settings_do_no_harm() -> None:
    texts = ["The cat sleeps.", "Tides follow the moon."]
    with EmbeddingEngine("nano", lanes=10**10, cache_ttl=float("inf")) as engine:
        blocks = list(engine.stream_documents(texts, block_size=10**30))
        np.testing.assert_array_equal(np.concatenate(blocks), engine.embed_documents(texts))


async def test_token_ids_with_a_chat_template_are_refused(engine: EmbeddingEngine) -> None:
    with pytest.raises(ValueError, match="not around token ids"):
        await engine.aembed([[3]], token_ids=True, chat_template="{{ messages }}")


async def test_without_waiting_a_full_queue_is_an_error() -> None:
    with EmbeddingEngine("nano", queue_tokens=8) as engine:
        encoder = WatchedEncoder(engine)
        with encoder.held():
            import threading

            thread = threading.Thread(target=engine.embed_query, args=("holds the queue, all of it, for a while",))
            thread.start()
            encoder.begun()
            with pytest.raises(EngineBusyError, match="at most 8: try again later"):
                await engine.aembed(["one more"], wait=False)
            with pytest.raises(EngineBusyError, match="at most 8: try again later"):
                engine.embed_documents(["one more"], wait=False)
        thread.join(PATIENCE)
        assert (await engine.aembed(["one more"], wait=False)).vectors.shape == (1, 384)


def test_loaded_says_whether_the_model_is_in_memory() -> None:
    with EmbeddingEngine("nano") as engine:
        assert not engine.loaded
        engine.warmup()
        assert engine.loaded
    assert not engine.loaded


def test_facts_are_those_of_the_files(engine: EmbeddingEngine) -> None:
    facts = engine.facts
    assert facts[:3] == (384, 2048, "last")
    assert (facts.prompts.get("query", ""), facts.dtype) == ("", "float32")
