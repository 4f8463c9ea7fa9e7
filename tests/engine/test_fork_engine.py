"""Forks of an idle process: a child computes the same vectors as its parent, and the parent carries on."""

import asyncio
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen_embeddings import EmbeddingEngine, get_engine
from mlx_qwen_embeddings.compute.mlx import backend
from mlx_qwen_embeddings.compute.weights import _read_here
from mlx_qwen_embeddings.errors import EngineClosedError, ModelLoadError
from tests.support.checkpoints import NANO_ENTRIES, Shape, random_weights, write_checkpoint
from tests.support.forking import FORK, Child

if not hasattr(os, "fork") or mx.is_available(mx.gpu):
    pytest.skip("this system does not fork, or MLX holds a GPU context, which does not survive it", allow_module_level=True)

Vectors = NDArray[np.float32]

TEXTS = ["The cat sat on the mat.", "Prices rose in May, for the third month in a row.", "", "A quiet light over water"]
OTHERS = ["Bread needs time.", "The tide follows the moon, and boats wait for it."]

on_import = EmbeddingEngine("nano", cache_bytes=0)
"""A global of this module: forked children inherit it, spawned children make their own."""


def embed_here(text: str) -> tuple[int, Vectors]:
    return os.getpid(), on_import.embed_query(text)


def embed_with(engine: EmbeddingEngine, text: str) -> tuple[int, Vectors]:
    return os.getpid(), engine.embed_query(text)


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddingEngine]:
    # Without a cache every call computes.
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


@pytest.fixture(scope="module")
def wanted(engine: EmbeddingEngine) -> Vectors:
    return engine.embed_documents(TEXTS)


def test_a_child_of_an_idle_parent(engine: EmbeddingEngine, wanted: Vectors) -> None:
    np.testing.assert_array_equal(Child(lambda: engine.embed_documents(TEXTS)).result(), wanted)
    np.testing.assert_array_equal(engine.embed_documents(TEXTS), wanted)


def test_a_child_awaits_streams_and_uses_threads(engine: EmbeddingEngine, wanted: Vectors) -> None:
    def compute() -> list[Vectors]:
        streamed = np.concatenate(list(engine.stream_documents(TEXTS, block_size=2)))
        with ThreadPoolExecutor(4) as pool:
            threaded = list(pool.map(engine.embed_documents, [TEXTS] * 8))
        return [asyncio.run(engine.aembed_documents(TEXTS)), streamed, *threaded]

    for vectors in Child(compute).result():
        np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-5)


def test_a_child_of_a_child_and_several_at_once(engine: EmbeddingEngine, wanted: Vectors) -> None:
    def compute() -> list[Vectors]:
        before = engine.embed_documents(TEXTS)
        return [before, Child(lambda: engine.embed_documents(TEXTS)).result(), engine.embed_documents(TEXTS)]

    children = [Child(compute) for _ in range(3)]
    for vectors in [found for child in children for found in child.result()]:
        np.testing.assert_array_equal(vectors, wanted)


def test_a_child_that_closes_its_engine_leaves_the_parents_open(engine: EmbeddingEngine, wanted: Vectors) -> None:
    def compute() -> bool:
        engine.embed_documents(TEXTS)
        engine.close()
        return engine.closed

    assert Child(compute).result()
    np.testing.assert_array_equal(engine.embed_documents(TEXTS), wanted)


def test_an_engine_that_was_closed_or_never_used(wanted: Vectors) -> None:
    closed, fresh = EmbeddingEngine("nano").warmup(), EmbeddingEngine("nano")
    closed.close()
    with pytest.raises(EngineClosedError, match="open a new one"):
        Child(lambda: closed.embed_query("late")).result()
    np.testing.assert_array_equal(Child(lambda: fresh.embed_documents(TEXTS)).result(), wanted)
    assert fresh.stats().texts == 0
    fresh.close()


def test_the_cache_crosses_a_fork(wanted: Vectors) -> None:
    with EmbeddingEngine("nano") as engine:
        engine.embed_documents(TEXTS)
        before = engine.stats()

        def compute() -> tuple[Vectors, int, int]:
            vectors = engine.embed_documents([*TEXTS, *OTHERS])
            now = engine.stats()
            return vectors, now.cache_hits - before.cache_hits, now.cache_misses - before.cache_misses

        vectors, hits, misses = Child(compute).result()
        assert (hits, misses) == (len(TEXTS), len(OTHERS))
        np.testing.assert_array_equal(vectors[: len(TEXTS)], wanted)
        assert engine.stats().cache_entries == len(TEXTS)  # the child's entries stay in the child


def test_the_shared_engine_stays_the_shared_engine() -> None:
    engine = get_engine("nano")
    wanted = engine.embed_query("shared")

    def compute() -> tuple[bool, Vectors]:
        return get_engine("nano") is engine, get_engine("nano").embed_query("shared")

    same, vector = Child(compute).result()
    assert same
    np.testing.assert_array_equal(vector, wanted)


@pytest.mark.parametrize(
    ("context", "processes"), [(FORK, 2), (multiprocessing.get_context("spawn"), 1)], ids=["fork", "spawn"]
)
def test_an_executor_of_processes(context: BaseContext, processes: int, engine: EmbeddingEngine, wanted: Vectors) -> None:
    on_import.embed_query("used before the children start")
    with ProcessPoolExecutor(processes, mp_context=context) as executor:
        found = list(executor.map(embed_here, TEXTS, timeout=60))
        found += list(executor.map(embed_with, [engine] * len(TEXTS), TEXTS, timeout=60))
    assert_from_children(found, wanted)


def test_a_pool_of_processes(engine: EmbeddingEngine, wanted: Vectors) -> None:
    with FORK.Pool(2) as pool:
        found = pool.map_async(embed_here, TEXTS, chunksize=1).get(60)
        found += pool.starmap_async(embed_with, [(engine, text) for text in TEXTS], chunksize=1).get(60)
    assert_from_children(found, wanted)


def assert_from_children(found: list[tuple[int, Vectors]], wanted: Vectors) -> None:
    assert os.getpid() not in {process for process, _ in found}
    np.testing.assert_allclose([vector for _, vector in found], np.tile(wanted, (2, 1)), rtol=0, atol=1e-5)


# Models that a child loads itself


def test_a_child_loads_another_model(tmp_path: Path, wanted: Vectors) -> None:
    shape = Shape(vocab_size=NANO_ENTRIES)
    folder = write_checkpoint(tmp_path, random_weights(shape), shape.config(), shards=2)
    vectors = Child(lambda: EmbeddingEngine(str(folder)).embed_documents(TEXTS)).result()
    with EmbeddingEngine(str(folder)) as engine:
        np.testing.assert_allclose(vectors, engine.embed_documents(TEXTS), rtol=0, atol=1e-6)


def test_weights_are_read_as_mlx_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    types = [mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64]
    types += [mx.float16, mx.bfloat16, mx.float32]
    arrays = {str(kind): (mx.arange(6) - 2).astype(kind).reshape(2, 3) for kind in types} | {"scalar": mx.array(3.5)}
    mx.save_safetensors(str(path), arrays, {"format": "mlx"})
    found = _read_here(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert mx.array_equal(found[name], array), name


def test_a_gpu_lost_in_a_fork_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "parent_computed", lambda: True)
    with pytest.raises(ModelLoadError, match=r"does not survive a fork.*get_context\('spawn'\)"):
        backend.claim_thread(backend.Backend("gpu", "bfloat16"))
