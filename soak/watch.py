"""Read memory, threads and the length of the queues twice a second."""

import gc
import threading
import time

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.compute.memory import resident_memory


class Watch:
    """Reads on a thread of its own between ``start`` and ``stop``."""

    def __init__(self, engines: list[EmbeddingEngine], seconds: float) -> None:
        """Watch engines; ``seconds`` is how long about, so that memory can be noted after a quarter of it."""
        self._engines = engines
        self._quarter = seconds / 4
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.memory = {"start": resident_memory(), "quarter": 0, "peak": 0, "end": 0, "closed": 0}
        self.threads = {"start": threading.active_count(), "peak": 0, "end": 0}
        self.queue_tokens = self.queue_requests = 0

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, once no more calls are made."""
        self._over.set()
        self._thread.join()
        self.memory["end"] = resident_memory()

    def closed(self) -> None:
        """Read once more, when everything is closed."""
        gc.collect()
        self.memory["closed"] = resident_memory()
        self.threads["end"] = threading.active_count()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.wait(0.5):
            now = resident_memory()
            self.memory["peak"] = max(self.memory["peak"], now)
            if not self.memory["quarter"] and time.monotonic() - began >= self._quarter:
                self.memory["quarter"] = now
            self.threads["peak"] = max(self.threads["peak"], threading.active_count())
            waiting = [engine._model.worker.queue for engine in self._engines]
            self.queue_requests = max(self.queue_requests, *(requests for requests, _ in waiting))
            self.queue_tokens = max(self.queue_tokens, *(tokens for _, tokens in waiting))
