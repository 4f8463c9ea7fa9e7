"""Run all callers at once."""

import threading
import time
from pathlib import Path

from soak.callers import call_from_loop, call_from_thread
from soak.closing import open_and_close
from soak.ledger import Ledger
from soak.processes import PATIENCE, have_children, kill_cache_writers
from soak.targets import Scene
from soak.watch import Watch

CLOSERS = 2


def run(folder: Path, seconds: float, *, threads: int, loops: int) -> tuple[Ledger, Watch]:
    """Run for some seconds, wait for unfinished calls, and close everything.

    Args:
        folder: For models and the cache.
        seconds: How long calls are made.
        threads: Number of threads that make calls.
        loops: Number of event loops that make calls.
    """
    scene, ledger, stop = Scene(folder), Ledger(), threading.Event()
    watch = Watch(scene.engines, seconds)
    works = [(call_from_thread, threads), (call_from_loop, loops), (open_and_close, CLOSERS)]
    works += [(have_children, 1), (kill_cache_writers, 1)]
    running = [
        threading.Thread(target=work, args=(scene, ledger, stop, seed), name=work.__name__, daemon=True)
        for work, number in works
        for seed in range(number)
    ]
    watch.start()
    for thread in running:
        thread.start()
    time.sleep(seconds)
    stop.set()
    end = time.monotonic() + PATIENCE
    for thread in running:
        thread.join(max(0.0, end - time.monotonic()))
    for thread in running:
        if thread.is_alive():
            ledger.complaints.append(f"a thread of {thread.name} did not end")
    ledger.give_up()
    watch.stop()
    if not ledger.verdicts["lost"]:
        scene.close()
    watch.closed()
    return ledger, watch
