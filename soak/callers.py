"""Threads and event loops that make calls, all at once, until the time is up."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from mlx_qwen_embeddings import EmbeddingEngine
from soak.judge import judge
from soak.ledger import Ledger
from soak.targets import Scene
from soak.texts import Request, Vectors

TASKS = 4
"""Concurrent calls of each event loop."""

STREAMED, CANCELLED = 0.05, 0.1
"""Share of a thread's calls that are streams, and of an event loop's calls that are cancelled."""


def ask(engine: EmbeddingEngine, request: Request) -> Vectors | BaseException:
    """Make a synchronous call and return its vectors or its error."""
    try:
        embed = engine.embed_queries if request.query else engine.embed_documents
        return embed(request.texts, **request.options)
    except Exception as error:  # noqa: BLE001 - every error is judged
        return error


def stream(engine: EmbeddingEngine, request: Request, blocks: int) -> Vectors | BaseException:
    """Read some blocks of a stream and abandon the rest."""
    options = {name: value for name, value in request.options.items() if name not in ("wait", "timeout")}
    try:
        reading = engine.stream_documents(request.texts, block_size=2, **options)
        with contextlib.closing(reading):
            found = [block for _, block in zip(range(blocks), reading, strict=False)]
        return np.concatenate(found)
    except Exception as error:  # noqa: BLE001 - every error is judged
        return error


def call_from_thread(scene: Scene, ledger: Ledger, stop: threading.Event, seed: int) -> None:
    """Make calls from a thread."""
    draw = random.Random(seed)
    while not stop.is_set():
        target, request = scene.draw(draw)
        with ledger.request(f"thread, {target.name}, {request.options}") as call:
            if draw.random() < STREAMED and not request.query and not request.guilty:
                blocks = draw.randint(1, 4)
                request.wanted = request.wanted[: 2 * blocks]
                judge(call, request, stream(target.engine(), request, blocks))
            else:
                judge(call, request, ask(target.engine(), request))


async def aask(engine: EmbeddingEngine, request: Request, patience: float | None) -> Vectors | BaseException:
    """Make an asynchronous call, and cancel it after ``patience`` seconds; None lets it end."""
    embed = engine.aembed_queries if request.query else engine.aembed_documents
    task = asyncio.ensure_future(embed(request.texts, **request.options))
    if patience is not None:
        await asyncio.wait([task], timeout=patience)
        task.cancel()
    return (await asyncio.gather(task, return_exceptions=True))[0]


async def call_from_task(scene: Scene, ledger: Ledger, stop: threading.Event, seed: int) -> None:
    """Make calls from a task of an event loop."""
    draw = random.Random(seed)
    while not stop.is_set():
        target, request = scene.draw(draw)
        patience = draw.uniform(0, 0.3) if draw.random() < CANCELLED else None
        with ledger.request(f"loop, {target.name}, {request.options}") as call:
            judge(call, request, await aask(target.engine(), request, patience))


def call_from_loop(scene: Scene, ledger: Ledger, stop: threading.Event, seed: int) -> None:
    """Run an event loop with several tasks; every other loop is uvloop's where that is installed."""

    async def tasks() -> None:
        await asyncio.gather(*(call_from_task(scene, ledger, stop, seed * TASKS + task) for task in range(TASKS)))

    with asyncio.Runner(loop_factory=loop_factory(seed)) as runner:
        runner.run(tasks())


def loop_factory(seed: int) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory for every other event loop; None means Python's own."""
    if seed % 2 or find_spec("uvloop") is None:
        return None
    import uvloop  # noqa: PLC0415 - it may not be installed

    return uvloop.new_event_loop
