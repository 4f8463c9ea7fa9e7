"""The thread that owns MLX: it merges waiting requests into batches, runs them and settles their futures."""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from enum import Enum
from typing import Protocol
from weakref import WeakSet, ref

from mlx_qwen_embeddings._fork import Forkable, Stage, let_go, protect
from mlx_qwen_embeddings.compute.mlx import threads
from mlx_qwen_embeddings.engine.batch import BatchEncoder, BatchRunner, try_settle
from mlx_qwen_embeddings.engine.queue import Batch, QueueBudget, Request, next_batch, take
from mlx_qwen_embeddings.errors import EngineBusyError, EngineClosedError
from mlx_qwen_embeddings.stats import StatsCounter

JOIN_SECONDS = 30.0
"""How long a fork waits for the batch being computed, and the exit until it says what it waits for."""

SMALL_TOKENS = 2048
"""Most tokens of a small request while the model, and so the size of its batches, is not known: one batch on a CPU."""

logger = logging.getLogger(__name__)


class State(Enum):
    """The life of a worker. It goes from COLD through LOADING to WARM, and back by ``retire`` or an error."""

    COLD = "no thread and no model; the next request starts both"
    LOADING = "its thread waits for a place in memory, then loads the model"
    WARM = "the model is in memory"
    RETIRING = "the model is freed and the thread ends, unless a request comes first"
    CLOSED = "no request is taken any more"


class Place(Protocol):
    """A place in memory, of which there are fewer than models; ``shared.Place`` documents the methods."""

    def enter(self, worker: "Worker") -> bool: ...  # noqa: D102 - as said above
    def loaded(self, worker: "Worker") -> None: ...  # noqa: D102 - as said above
    def leave(self, worker: "Worker") -> None: ...  # noqa: D102 - as said above
    def note_change(self) -> None: ...  # noqa: D102 - as said above


class Worker(Forkable):
    """A thread with an encoder, and the queue in front of it."""

    def __init__(
        self, open_encoder: Callable[[], BatchEncoder], *, batch_tokens: int | None, queue_tokens: int, stats: StatsCounter
    ) -> None:
        """Prepare; the first request starts the thread.

        Args:
            open_encoder: Makes the encoder, on the worker's thread.
            batch_tokens: Most tokens of a batch, padding included; None leaves it to the encoder.
            queue_tokens: Tokens that may wait or run before further requests have to wait, see ``QueueBudget``.
            stats: Where to count.
        """
        self._open_encoder = open_encoder
        self._batch_tokens = batch_tokens
        self._queue_tokens = queue_tokens
        self._stats = stats
        self._runner = BatchRunner(stats)
        self.place: Place | None = None  # None: its model may be loaded at any time
        self.used_at = time.monotonic()
        self.last_model_bytes = 0
        self._encoder: BatchEncoder | None = None
        self._state = State.COLD
        self._reset()
        _workers.add(self)
        protect(self, Stage.COMPUTING)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        # A fork takes both: the first holds the next batch back, the second waits for the one being computed.
        self._turnstile, self._computing, self._at_rest = threading.Lock(), threading.Lock(), False
        self._threads: list[threads.Running] = []  # the last one is in charge; others are still freeing the model
        self._requests: list[Request] = []
        self._waiting: list[Request] = []  # for room in the queue, in order
        self._served: set[object] = set()  # calls that had rows in the last batch
        self._budget = QueueBudget(self._queue_tokens)

    # Requests

    def submit(self, request: Request, *, wait: bool = True) -> Future[None]:
        """Queue a request, or make it wait for room in the queue. A small one may overtake others that wait.

        Args:
            request: The worker's thread settles its ``future``.
            wait: Whether it may wait while the queue is full.

        Returns:
            The request's ``admitted``: settled once it is queued.

        Raises:
            EngineBusyError: When the queue is full and ``wait`` is false.
            EngineClosedError: When the worker is closed.
            RuntimeError: When no thread can be started; the next request tries again.
        """
        with self._changed:
            self.start()
            self._waiting.append(request)
            if not self._admit(request) and not wait:
                self._waiting.remove(request)
                raise EngineBusyError(
                    f"the queue holds {self._budget.tokens} tokens of at most {self._queue_tokens}: try again later"
                )
            known = ref(request)  # a future keeps its callbacks for ever, and they would keep the texts
            request.future.add_done_callback(lambda _: self._forget(known()))
            self._changed.notify_all()
        return request.admitted

    def _admit(self, request: Request) -> bool:
        first = self._waiting[0] is request
        if not self._budget.admit(request, first=first, small=self._is_small(request)):
            return False
        self._waiting.remove(request)
        self._requests.append(request)
        try_settle(request.admitted, None)
        return True

    def _is_small(self, request: Request) -> bool:
        known = self._batch_tokens or (self._encoder.batch_tokens if self._encoder else SMALL_TOKENS)
        return len(request.rows) == 1 or request.tokens <= known

    def _forget(self, request: Request | None) -> None:
        with self._changed:
            if request in self._waiting:
                self._waiting.remove(request)
            elif request is not None and request in self._requests:
                self._requests.remove(request)
                self._budget.release(request)
            self._changed.notify_all()

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            failed, self._requests = self._requests, []
            refused, self._waiting = self._waiting, []
            self._budget = QueueBudget(self._queue_tokens)
            for request in failed:
                self._stats.failed(error, len(request.rows) - request.done)
                try_settle(request.future, error)
            for request in refused:
                try_settle(request.admitted, error)
            self._changed.notify_all()

    @property
    def queue(self) -> tuple[int, int]:
        """Requests and tokens that are queued or being computed."""
        return len(self._requests), self._budget.tokens

    # From one state to the next

    def check_open(self) -> None:
        """Refuse work that could never be done.

        Raises:
            EngineClosedError: When the worker is closed, the interpreter exits, or MLX was lost in a fork.
        """
        if self.closed:
            raise EngineClosedError("the engine is closed: open a new one with get_engine(...)")
        if _refusal:
            raise EngineClosedError(_refusal)

    def start(self) -> None:
        """Start the thread, which loads the model, unless it is running.

        Raises:
            EngineClosedError: As ``check_open``.
            RuntimeError: When no thread can be started.
        """
        with self._changed:
            self.check_open()
            if self._state is State.COLD:
                running = threads.start(self._run, "mlx-qwen-worker")
                self._threads = [*filter(threads.Running.is_alive, self._threads), running]
                self._state = State.LOADING

    def retire(self) -> bool:
        """Free the model and end the thread, unless there is work; the next request loads it again.

        Only for a worker with a place: its next thread waits there until this one has freed the model.

        Returns:
            Whether it will, unless work comes first.
        """
        with self._changed:
            if self._requests or self._state not in {State.WARM, State.RETIRING}:
                return False
            self._state = State.RETIRING
            self._changed.notify_all()
            return True

    def close(self, timeout: float | None = JOIN_SECONDS) -> None:
        """Stop: the batch being computed ends, everything that waits fails with ``EngineClosedError``."""
        with self._changed:
            self._state = State.CLOSED
            self._note_change()
        self._fail_all(EngineClosedError("the engine was closed before this call was served"))
        self.join(timeout)

    def join(self, timeout: float | None) -> bool:
        """Wait for the threads, at most ``timeout`` seconds each, and return whether they have ended."""
        running = list(self._threads)
        for thread in running:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in running)

    @property
    def closed(self) -> bool:
        """Whether the worker was closed."""
        return self._state is State.CLOSED

    @property
    def model_bytes(self) -> int:
        """Size of the weights in memory; 0 while no model is loaded."""
        encoder = self._encoder
        return encoder.nbytes if encoder else 0

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of live arrays, now and at most; 0 while no model is loaded."""
        encoder = self._encoder
        return encoder.memory if encoder else (0, 0)

    def _note_change(self) -> None:
        if self.place is not None:
            self.place.note_change()

    # On the worker's thread

    def _run(self) -> None:
        with self._changed:
            own = self._threads[-1]
        try:
            if self.place is None:
                self._work()
            else:
                self._work_in(self.place)
        except BaseException as error:  # noqa: BLE001 - whatever ends the thread, no caller may wait for ever
            with self._changed:
                if self._threads[-1] is not own or self._state is State.COLD:
                    return  # it had retired, so no request is its own
                if not self.closed:
                    self._state = State.COLD
                self._fail_all(_as_exception(error))

    def _work_in(self, place: Place) -> None:
        if place.enter(self):
            try:
                self._work()
            finally:
                place.leave(self)

    def _work(self) -> None:
        with self._not_in_a_fork():
            encoder = self._encoder = self._encoder or self._open_encoder()
        try:
            if self.place is not None:
                self.last_model_bytes = encoder.nbytes
                self.place.loaded(self)
            while batch := self._next(self._runner.limit(self._batch_tokens or encoder.batch_tokens)):
                with self._not_in_a_fork():
                    self._runner.run(encoder, batch)
        finally:
            with self._not_in_a_fork():
                self._encoder = None
                encoder.release()

    @contextmanager
    def _not_in_a_fork(self) -> Iterator[None]:
        with self._turnstile:
            pass
        with self._computing:
            yield

    def _next(self, batch_tokens: int) -> Batch | None:
        """Wait for work and take the next batch out of the queue; return None when the thread has to end."""
        with self._changed:
            while True:
                if self.closed:
                    return None
                self._update_queue()
                if self._requests:
                    self._state = State.WARM
                    return self._take(batch_tokens)
                if self._state is State.RETIRING:
                    # At once: a request that comes from now on finds neither a thread nor a model.
                    self._state, self._encoder = State.COLD, None
                    return None
                self._state = State.WARM
                self._note_change()
                self._changed.wait()

    def _update_queue(self) -> None:
        # A request without rows was cancelled while its last batch ran, by a thread that is about to say so.
        for request in [request for request in self._requests if not request.waiting]:
            self._forget(request)
        for request in tuple(self._waiting):
            self._admit(request)

    def _take(self, batch_tokens: int) -> Batch:
        self.used_at = time.monotonic()
        # Calls that the last batch served go behind all that came while it ran.
        self._requests.sort(key=lambda request: request.call in self._served)
        batch = next_batch(self._requests, batch_tokens)
        take(batch)
        self._served = {request.call for request, _ in batch}
        return batch

    # Forks

    def before_fork(self) -> None:
        """Wait for the batch being computed, and hold the next one back."""
        self._turnstile.acquire()
        self._at_rest = self._computing.acquire(timeout=JOIN_SECONDS)
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on with the next batch."""
        let_go(self._changed)
        if self._at_rest:
            self._at_rest = False
            self._computing.release()
        let_go(self._turnstile)

    def after_fork_in_child(self) -> None:
        """Start with an empty queue. A model on the CPU is taken over, since evaluated arrays outlive their thread."""
        if not self._at_rest and self._computing.locked():
            _refuse(
                f"the process was forked while a batch ran for over {JOIN_SECONDS:.0f} s: fork before the first use, or "
                "start processes with multiprocessing.get_context('spawn')"
            )
        elif self._encoder is not None and not self._encoder.survives_fork:
            _refuse(
                "a GPU context does not survive a fork: start processes with multiprocessing.get_context('spawn'), or fork "
                "before the first use"
            )
        if not self.closed:
            self._state = State.COLD
        self._reset()


def _as_exception(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    died = EngineClosedError(f"the engine's worker died of {type(error).__name__}; the next call starts a new one")
    died.__cause__ = error
    return died


_workers: "WeakSet[Worker]" = WeakSet()
_refusal: str | None = None


def _refuse(reason: str) -> None:
    """Let no engine of this process compute from now on, new ones included."""
    global _refusal  # noqa: PLW0603 - it is the process that lost MLX
    _refusal = reason


@atexit.register
def _close_all() -> None:
    # MLX aborts the interpreter's exit if a thread that computed is still there, or ended without clearing its streams.
    _refuse("the interpreter exits")
    for worker in list(_workers):
        worker.close(0)
    told = False
    for worker in list(_workers):
        while not worker.join(JOIN_SECONDS):
            if not told:
                told = True
                logger.warning(
                    "the interpreter exits as soon as the batch being computed has ended; so far it has waited %.0f s",
                    JOIN_SECONDS,
                )
