"""Child processes: forked while everything runs, spawned, and killed while they write to the cache."""

import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from mlx_qwen_embeddings import EmbeddingEngine
from soak.callers import ask
from soak.judge import judge
from soak.ledger import Ledger
from soak.targets import Scene
from soak.texts import Request
from tests.kills.cache import examine, kill_writers

PATIENCE = 120.0
"""Seconds after which a child counts as lost."""

EXAMINATIONS = 5
"""Attempts to find committed entries: on a busy machine a look-up may time out, as a miss. A lost entry stays lost."""

FORKED, RAW = 0.8, 0.7
"""Share of children that are forked, and of killed writers that write to the file without an engine."""

WRITER = """
import random, sys
from mlx_qwen_embeddings import EmbeddingEngine
from soak.texts import make_texts
texts = make_texts()
with EmbeddingEngine("nano", cache_path=sys.argv[1]) as engine:
    print("begun", flush=True)
    while True:
        engine.embed_documents(random.sample(texts, 8))
        engine._model.cache.clear()
"""


def can_fork() -> bool:
    """Return whether a forked child can compute here: not where MLX holds a GPU context."""
    import mlx.core as mx  # noqa: PLC0415 - only after the engine has chosen its BLAS

    return hasattr(os, "fork") and not mx.is_available(mx.gpu)


def have_children(scene: Scene, ledger: Ledger, stop: threading.Event, seed: int) -> None:
    """Make one child after another, most of them forked, some spawned."""
    draw = random.Random(seed)
    while not stop.is_set():
        how = "fork" if can_fork() and draw.random() < FORKED else "spawn"
        asked = [scene.draw(draw) for _ in range(3)]
        _have_child(
            multiprocessing.get_context(how), how, [(target.engine(), request) for target, request in asked], ledger
        )
        ledger.count("forked children" if how == "fork" else "spawned children")
        stop.wait(draw.uniform(0, 2))


def _have_child(context: BaseContext, how: str, asked: list[tuple[EmbeddingEngine, Request]], ledger: Ledger) -> None:
    if how == "spawn":  # injected faults are not pickled, so guilty texts would get a vector
        asked = [(engine, request) for engine, request in asked if not request.guilty]
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=answer, args=(sender, asked))  # type: ignore[attr-defined]
    child.start()
    sender.close()
    try:
        found = receiver.recv() if receiver.poll(PATIENCE) else None
    except EOFError:
        found = f"it ended by itself, with status {child.join(PATIENCE) or child.exitcode}"
    for place, (_, request) in enumerate(asked):
        with ledger.request(f"{how}ed child, {request.options}") as call:
            judge(call, request, found[place]) if isinstance(found, list) else call.wrong(found or "it hangs")
    child.kill() if found is None else child.join(PATIENCE)
    if child.exitcode != 0:
        ledger.count("children that did not end well")


def answer(sender: Connection, asked: list[tuple[EmbeddingEngine, Request]]) -> None:
    """Make the requests in a child, and send the results."""
    found: list[Any] = [ask(engine, request) for engine, request in asked]
    sender.send(found)


def kill_cache_writers(scene: Scene, ledger: Ledger, stop: threading.Event, seed: int) -> None:
    """Let other processes write to the engines' cache file, kill them, and check what is in the file."""
    draw = random.Random(seed)
    start = 0
    while not stop.is_set():
        with ledger.request("the cache after a kill") as call:
            if draw.random() < RAW:
                start += 10**6
                committed = kill_writers(scene.cache, [start], draw.uniform(0, 0.05))
            else:
                _kill_engine(scene, draw.uniform(0, 2))
                committed = []
            lost = _lost(scene, committed)
            call.right() if not lost else call.wrong(f"{lost} committed entries are missing")
        ledger.count("writers of the cache killed")
        stop.wait(draw.uniform(0, 1))


def _kill_engine(scene: Scene, seconds: float) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(scene.cache)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(seconds)
    writer.kill()
    writer.communicate()


def _lost(scene: Scene, committed: list[range]) -> int:
    lost = 0
    for _ in range(EXAMINATIONS):
        try:
            lost = examine(scene.cache, committed)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            lost = 1
        if not lost:
            break
        time.sleep(1)
    return lost
