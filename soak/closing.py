"""Engines that run out of memory, whose worker dies, and that are closed while threads make calls."""

import random
import threading
import time

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.errors import EngineClosedError
from soak.callers import ask
from soak.faults import install
from soak.judge import judge
from soak.ledger import Ledger
from soak.targets import Scene
from soak.texts import EXHAUSTS, KILLS, RAISES, draw_request

CALLERS = 4


def open_and_close(scene: Scene, ledger: Ledger, stop: threading.Event, seed: int) -> None:
    """Open an engine, let threads make calls, and close it during these, again and again."""
    draw = random.Random(seed)
    while not stop.is_set():
        name = draw.choice(("nano", "tiny"))
        engine = EmbeddingEngine(str(scene.folders[name]), cache_bytes=2**16, batch_tokens=400, queue_tokens=2000)
        install(engine, scene.tokenizer, exhausted=0.03)
        callers = [
            threading.Thread(target=_use, args=(engine, name, scene, ledger, draw.random()), daemon=True)
            for _ in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        time.sleep(draw.uniform(0.3, 3))  # the moment of closing is random
        engine.close()
        for caller in callers:
            caller.join()
        ledger.count("engines closed under load")
        with ledger.request("a call of a closed engine") as call:
            found = ask(engine, draw_request(draw, scene.texts, scene.tables[name], (RAISES,)))
            call.failed("engine closed, or its worker died") if isinstance(found, EngineClosedError) else call.wrong(
                repr(found)
            )


def _use(engine: EmbeddingEngine, name: str, scene: Scene, ledger: Ledger, seed: float) -> None:
    draw = random.Random(seed)
    while not engine.closed:
        request = draw_request(draw, scene.texts, scene.tables[name], (RAISES, EXHAUSTS, KILLS))
        # A text that runs out of memory among others is computed alone; one that ends the worker looks like a close.
        request.guilty = {place for place in request.guilty if EXHAUSTS not in request.texts[place]}
        known = [place for place, text in enumerate(request.texts) if EXHAUSTS not in text]
        with ledger.request(f"an engine that is closed, {name}, {request.options}") as call:
            found = ask(engine, request)
            if len(known) < len(request.texts) and not isinstance(found, BaseException):
                found, request.wanted = found[known], request.wanted[known]
            judge(call, request, found, may_close=True)
