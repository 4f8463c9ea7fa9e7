"""Anything that a caller may pass: strategies, and what has to come of it. For the property tests and the fuzzer."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pydantic
from hypothesis import strategies as st

from mlx_qwen_embeddings import EmbeddingEngine, EngineSettings, similarity
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError

MEGABYTE = 2**20

letters = st.characters(exclude_categories=())
"""Every one, NUL and lone surrogates included."""

strings = st.text(letters, max_size=60)


@st.composite
def long_strings(draw: st.DrawFn) -> str:
    """Return a string of up to a megabyte: a short one, repeated."""
    piece = draw(st.text(letters, min_size=1, max_size=6))
    return (piece * draw(st.sampled_from([100, 5_000, MEGABYTE])))[: draw(st.sampled_from([3_000, 40_000, MEGABYTE]))]


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.binary(max_size=3),
    strings,
    st.lists(st.none(), max_size=2),
)
texts = st.lists(strings | st.sampled_from(["the tide", "", "\0"]), max_size=8)
few_long = st.lists(long_strings() | strings, min_size=1, max_size=2)
no_texts = st.one_of(junk, st.lists(junk, max_size=4), st.dictionaries(strings, junk, max_size=2), st.tuples(junk, strings))

fitting: dict[str, st.SearchStrategy[Any]] = {
    "instruction": st.none() | strings,
    "dimensions": st.none() | st.integers(1, 48),
    "normalize": st.booleans(),
    "pooling": st.sampled_from(["native", "last", "mean", "max", "first"]),
    "max_length": st.none() | st.integers(2, 300),
    "truncate": st.sampled_from(["end", "error"]),
    "chat_template": st.none() | st.sampled_from(["{{ messages[0]['content'] }}", "User: {{ messages[0].content }}\n", ""]),
    "timeout": st.none() | st.floats(5, 1e300) | st.just(math.inf),
    "wait": st.booleans(),
}
unfitting: dict[str, st.SearchStrategy[Any]] = {
    name: strategy | junk | st.integers(-(2**70), 2**70) | strings for name, strategy in fitting.items()
}


def some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return some of the options."""
    return st.fixed_dictionaries({}, optional=fields)


options = some(fitting)
any_options = some(unfitting)
calls = st.sampled_from(["embed_documents", "embed_queries", "aembed_documents", "aembed_queries", "stream_documents"])


def make_call(engine: EmbeddingEngine, call: str, given: Any, chosen: dict[str, Any]) -> Any:
    """Make a call, and wait for it where it is asynchronous."""
    if call == "stream_documents":
        blocks = list(engine.stream_documents(given, block_size=3, **chosen))
        return np.concatenate(blocks) if blocks else np.empty((0, chosen.get("dimensions") or 48), np.float32)
    found = getattr(engine, call)(given, **chosen)
    return asyncio.run(found) if call.startswith("a") else found


def check_vectors(found: Any, count: int, chosen: dict[str, Any]) -> None:
    """Hold vectors against what was asked for."""
    assert found.dtype == np.float32
    assert found.shape == (count, 48 if chosen.get("dimensions") is None else chosen["dimensions"])
    assert np.isfinite(found).all()
    if chosen.get("normalize", True):
        np.testing.assert_allclose(np.linalg.norm(found.astype(np.float64), axis=1), 1, atol=1e-4)


def refuse(call: Callable[[], Any], names: list[str]) -> Any:
    """Make a call; give its value, or None when it was refused in words that name what does not fit."""
    try:
        return call()
    except (MLXQwenEmbeddingsError, pydantic.ValidationError):
        return None
    except (TypeError, ValueError) as error:
        if any(name in str(error) for name in names):
            return None
        raise


def check_call(engine: EmbeddingEngine, call: str, given: Any, chosen: dict[str, Any]) -> None:
    """Make a call with anything: right vectors, or an error that says what is wrong."""
    found = refuse(lambda: make_call(engine, call, given, chosen), ["texts", "messages", "template", *chosen])
    if found is not None:
        check_vectors(found, len(given), chosen)


def check_settings(given: dict[str, Any]) -> None:
    """Make settings of anything: those that were asked for, or an error that names the field."""
    made = refuse(lambda: EngineSettings(**given), [])
    if made is not None:
        EngineSettings.model_validate(made.model_dump())


def check_similarity(name: str, a: Any, b: Any) -> None:
    """Compare anything: finite numbers, or an error that says which argument does not fit."""
    found = refuse(
        lambda: getattr(similarity, name)(a, b), ["a ", "a:", "b ", "b:", "row", "vectors", "dimensions", "shape"]
    )
    if found is not None:
        assert not np.isnan(found).any()


arrays = st.one_of(
    st.lists(st.floats(width=32), max_size=4),
    st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), max_size=3),
    st.lists(st.lists(st.floats(), max_size=3), max_size=3),
    junk,
)
engine_settings = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(EngineSettings.model_fields, junk | strings | st.integers() | st.sampled_from(["cpu", "auto"])),
)
