"""Each switch of the benchmark leaves out exactly the shortcut that it names, and changes no vector."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.switches import SWITCHES, switch_off
from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.compute import encoder
from mlx_qwen_embeddings.compute.mlx import lanes
from mlx_qwen_embeddings.models import activations, attention, bert, layers, qwen3
from tests.support.bert_reference import BertShape, bert_weights, write_bert

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="lanes need a BLAS whose threads can be set")

TEXTS = [f"{'the tide follows the moon over water ' * (number % 7)}{number}" for number in range(20)]


class Route(NamedTuple):
    """A function that a shortcut calls.

    Attributes:
        switch: Name of the switch that leaves it out.
        owner: Module, class or mapping that holds the function.
        name: The function's name there.
        taken: Tells from a call's arguments whether it is the shortcut.
    """

    switch: str
    owner: Any
    name: str
    taken: Callable[..., bool] = lambda *_, **__: True


ROUTES = (
    Route("lanes", lanes._Shift, "work"),
    Route("pieces", encoder, "pieces"),
    Route("attention", attention, "_causal_by_hand"),
    Route("attention", attention, "_by_hand"),
    Route("exp", activations, "exp_in_place"),
    Route("silu", qwen3, "silu"),
    Route("gelu", bert.ACTIVATIONS, "gelu"),
    Route("order", layers, "by_hand"),  # called only for few tokens
    Route("step", encoder, "pad", lambda _, *, multiple: multiple > 1),
    Route("prompt", qwen3.Model, "prefill"),
    Route("settled", qwen3, "settled"),
    Route("settled", bert, "settled"),
    Route("last_token", qwen3.Attention, "last"),
)

ALSO = {"pieces": {"lanes"}, "silu": {"exp"}}
"""Shortcuts that a switch leaves out besides its own: a single piece has one lane, MLX's sigmoid does not call ``exp``."""

Vectors = list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = BertShape()
    return write_bert(tmp_path_factory.mktemp("bert"), bert_weights(shape), shape.config())


def watch(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Return a set that collects the routes taken from now on, by switch and name."""
    seen: set[tuple[str, str]] = set()

    def watched(route: Route, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if route.taken(*given, **named):
                seen.add((route.switch, route.name))
            return original(*given, **named)

        return call

    for route in ROUTES:
        if isinstance(route.owner, dict):
            monkeypatch.setitem(route.owner, route.name, watched(route, route.owner[route.name]))
        else:
            monkeypatch.setattr(route.owner, route.name, watched(route, getattr(route.owner, route.name)))
    return seen


def embed(bert_folder: Path, *, without: str | None = None) -> tuple[Vectors, set[str]]:
    """Embed with one shortcut off, or none. Return the vectors, and the switches of which no route was taken."""
    with pytest.MonkeyPatch.context() as patch:
        for owner in (activations, attention, bert, encoder, lanes, layers, qwen3, qwen3.Layer):
            for name, value in list(vars(owner).items()):
                if not name.startswith("__"):
                    patch.setattr(owner, name, value)  # restored afterwards, whatever a switch changes
        patch.setattr(lanes, "cores", lambda: 2)
        patch.setattr(layers, "LARGE_WEIGHT", 1)  # nano has no weight that large
        seen = watch(patch)
        switch_off([without] if without else [])
        vectors = []
        for model in ("nano", str(bert_folder)):
            with EmbeddingEngine(model, device="cpu", cache_bytes=0) as engine:
                vectors += [engine.embed_documents(TEXTS), engine.embed_documents(TEXTS[1:2])]
                vectors += [engine.embed_queries(TEXTS, instruction="Find what follows the moon")]
    missed = {(route.switch, route.name) for route in ROUTES} - seen
    off = {switch for switch, _ in missed}
    assert not off & {switch for switch, _ in seen}, "some of its routes were taken, others not"
    return vectors, off


@pytest.fixture(scope="module")
def expected(tiny_bert: Path) -> Vectors:
    vectors, off = embed(tiny_bert)
    assert not off, "without a switch every shortcut is taken"
    return vectors


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_leaves_out_only_its_shortcut_and_changes_no_vector(name: str, tiny_bert: Path, expected: Vectors) -> None:
    vectors, off = embed(tiny_bert, without=name)
    assert off == {name} | ALSO.get(name, set())
    for found, right in zip(vectors, expected, strict=True):
        assert np.abs(found - right).max() < 1e-5
