"""The thread that owns MLX: it merges waiting requests into batches, runs them and settles their futures."""

import atexit
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet, ref

from mlx_qwen_embeddings._fork import Forkable, Stage, let_go, protect
from mlx_qwen_embeddings.compute.mlx import threads
from mlx_qwen_embeddings.engine.batch import BatchEncoder, Delivery, try_settle
from mlx_qwen_embeddings.engine.queue import Batch, Request, Room, next_batch, take
from mlx_qwen_embeddings.errors import EngineBusyError, EngineClosedError
from mlx_qwen_embeddings.stats import StatsCounter

JOIN_SECONDS = 30.0
"""Longest wait for the batch in hand when a process forks or exits."""

SMALL_TOKENS = 2048
"""Most tokens of a small request until the model is loaded and the size of its batches known: a batch on a CPU."""

logger = logging.getLogger(__name__)


class Place(Protocol):
    """A place in memory, of which there are fewer than models."""

    def enter(self, worker: "Worker") -> bool:
        """Wait until the model may be loaded; False when the worker was closed meanwhile."""
        ...

    def loaded(self, worker: "Worker") -> None:
        """Note that the model is in memory."""
        ...

    def leave(self, worker: "Worker") -> None:
        """Note that the model is freed, or was not loaded."""
        ...

    def note_change(self) -> None:
        """Note that the worker is idle, or closed; called under its lock."""
        ...


class Worker(Forkable):
    """A thread with an encoder, and the queue in front of it."""

    def __init__(
        self, open_encoder: Callable[[], BatchEncoder], *, batch_tokens: int | None, queue_tokens: int, stats: StatsCounter
    ) -> None:
        """Prepare; the thread starts with the first request.

        Args:
            open_encoder: Makes the encoder, on the worker's thread.
            batch_tokens: Most tokens of a batch, padding counted; None leaves it to the encoder.
            queue_tokens: Tokens that may wait before ``submit`` blocks; see ``Room``.
            stats: Where to count.
        """
        self._open_encoder = open_encoder
        self._batch_tokens = batch_tokens
        self._queue_tokens = queue_tokens
        self._stats = stats
        self._delivery = Delivery(stats)
        self.closed = False
        self.place: Place | None = None
        self.used_at = time.monotonic()
        self.last_model_bytes = 0
        self._encoder: BatchEncoder | None = None
        self._at_rest = False
        self._reset()
        _workers.add(self)
        protect(self, Stage.COMPUTING)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._computing = threading.Lock()  # held during MLX work, so that a fork can wait for its end
        self._pausing = False
        self._requests: list[Request] = []
        self._served: set[object] = set()  # calls, by the last batch
        self._line: list[Request] = []  # those that wait for room in the queue, in order
        self._room = Room(self._queue_tokens)
        self._thread: threads.Running | None = None
        self._retiring = False
        self._retired: threads.Running | None = None  # the last one that freed the model to make room, or is at it

    def submit(self, request: Request, *, wait: bool = True, seconds: float | None = None) -> None:
        """Queue a request. One of at most one batch passes those that wait for room, as far as there is room apart.

        Args:
            request: Its future is settled by the worker's thread.
            wait: Whether to wait while the queue is full.
            seconds: Longest wait; None has no end.

        Raises:
            EngineBusyError: When the queue is full and stays so.
            EngineClosedError: When the worker is closed.
        """
        with self._changed:
            self._line.append(request)
            waiting = ref(request)  # a future keeps its callbacks for ever, and would keep the texts with them
            request.future.add_done_callback(lambda _: self._forget(waiting()))
            try:
                if not self._changed.wait_for(lambda: self._admits(request), seconds if wait else 0):
                    message = f"the queue holds {self._room.tokens} tokens of at most {self._queue_tokens}: try again later"
                    raise EngineBusyError(message)
                if not request.future.cancelled():
                    self.start()
                    self._requests.append(request)
                    self._room.add(request, first=self._line[0] is request)
            finally:
                self._line.remove(request)
                self._changed.notify_all()

    def _admits(self, request: Request) -> bool:
        self.check_open()
        first = self._line[0] is request
        return request.future.cancelled() or self._room.has(request, first=first, small=self._is_small(request))

    def _is_small(self, request: Request) -> bool:
        known = self._batch_tokens or (self._encoder.batch_tokens if self._encoder else SMALL_TOKENS)
        return len(request.rows) == 1 or request.tokens <= known

    def close(self, timeout: float | None = JOIN_SECONDS) -> None:
        """Stop: the batch in hand ends, everything that waits fails with ``EngineClosedError``."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            ours = self._thread, self._retired
            self._note_change()
        self._fail_all(_reason(None))
        self._join(ours, timeout)

    def ended(self, timeout: float | None) -> bool:
        """Wait for the threads of a closed worker, and say whether they have ended."""
        return self._join((self._thread, self._retired), timeout)

    @staticmethod
    def _join(ours: "tuple[threads.Running | None, ...]", timeout: float | None) -> bool:
        running = [thread for thread in ours if thread is not None]
        for thread in running:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in running)

    def retire(self) -> bool:
        """Free the model and end the thread, unless it has work; the next request loads it again.

        Only for a worker with a place: there its next thread waits until this one has freed the model.

        Returns:
            Whether it is about to: work that comes first still keeps it.
        """
        with self._changed:
            if self._thread is None or self._encoder is None or self._requests:
                return False
            self._retiring = True
            self._changed.notify_all()
            return True

    @property
    def model_bytes(self) -> int:
        """Size of the weights in memory; 0 while no model is loaded."""
        encoder = self._encoder
        return encoder.nbytes if encoder else 0

    def _note_change(self) -> None:
        if self.place is not None:
            self.place.note_change()

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of live arrays, now and at most; 0 while no model is loaded."""
        encoder = self._encoder
        return encoder.memory if encoder else (0, 0)

    @property
    def queue(self) -> tuple[int, int]:
        """Requests and tokens that wait or run."""
        return len(self._requests), self._room.tokens

    def check_open(self) -> None:
        """Refuse work that could never be done.

        Raises:
            EngineClosedError: When the worker is closed, the interpreter exits, or MLX was lost in a fork.
        """
        if self.closed:
            message = "the engine is closed: open a new one with get_engine(...)"
            raise EngineClosedError(message)
        if _refusal:
            raise EngineClosedError(_refusal)

    def start(self) -> None:
        """Start the thread, which loads the model, unless it runs already."""
        with self._changed:
            self.check_open()
            if self._thread is None:
                # Where no thread can be had, the next call tries again.
                self._thread = threads.start(self._run, "mlx-qwen-worker")

    def _forget(self, request: Request | None) -> None:
        with self._changed:
            if request is not None and request in self._requests:
                self._requests.remove(request)
                self._room.remove(request)
            self._changed.notify_all()

    def _run(self) -> None:
        error: BaseException | None = None
        with self._changed:
            own = self._thread
        try:
            if self.place is None:
                self._work()
            else:
                self._work_in(self.place)
        except BaseException as caught:  # noqa: BLE001 - whatever ends the thread, no caller may wait for ever
            error = caught
        finally:
            if own is None or self._retired is not own:
                self._fail_all(_reason(error), ended=True)

    def _work_in(self, place: Place) -> None:
        if place.enter(self):
            try:
                self._work()
            finally:
                place.leave(self)

    def _work(self) -> None:
        with self._computing:
            encoder = self._encoder = self._encoder or self._open_encoder()
        try:
            if self.place is not None:
                self.last_model_bytes = encoder.nbytes
                self.place.loaded(self)
            while batch := self._next(self._delivery.at_most(self._batch_tokens or encoder.batch_tokens)):
                with self._computing:
                    self._delivery.serve(encoder, batch)
        finally:
            with self._computing:
                self._encoder = None
                encoder.release()

    def _next(self, batch_tokens: int) -> Batch | None:
        with self._changed:
            while self._pausing or not (self.closed or self._unfinished() or self._retiring):
                self._note_change()
                self._changed.wait()
            if self.closed:
                return None
            self._retiring = False
            if not self._requests:
                # Given up at once: a request that comes from now on finds a worker without a thread and a model.
                self._retired, self._thread, self._encoder = self._thread, None, None
                return None
            self.used_at = time.monotonic()
            # Calls that the last batch served go behind all that came while it ran. None of their requests has run out
            # of rows: such a one was settled, and taken off the list.
            self._requests.sort(key=lambda request: request.call in self._served)
            batch = next_batch(self._requests, batch_tokens)
            take(batch)
            self._served = {request.call for request, _ in batch}
            return batch

    def _unfinished(self) -> list[Request]:
        # One without a row left was cancelled while its last batch ran, by a thread that is about to say so.
        for request in [request for request in self._requests if not request.waiting]:
            self._forget(request)
        return self._requests

    def _fail_all(self, error: BaseException, *, ended: bool = False) -> None:
        with self._changed:
            requests, self._requests, self._room = self._requests, [], Room(self._queue_tokens)
            if ended:
                self._thread = None  # unless closed, the next request starts a new one
            self._changed.notify_all()
        for request in requests:
            self._stats.failed(error, len(request.rows) - request.done)
            try_settle(request.future, error)

    def before_fork(self) -> None:
        """Wait for the batch in hand and hold the next one back."""
        with self._changed:
            self._pausing = True
        self._at_rest = self._computing.acquire(timeout=JOIN_SECONDS)
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on with the next batch."""
        with self._changed:
            self._pausing = False
            self._changed.notify_all()
        let_go(self._changed)
        if self._at_rest:
            self._computing.release()
        self._at_rest = False

    def after_fork_in_child(self) -> None:
        """Start with an empty queue; a loaded CPU model is taken over, since evaluated arrays outlive their thread."""
        if not self._at_rest and self._thread is not None:
            _refuse(
                f"the process was forked while a batch ran for over {JOIN_SECONDS:.0f} s: fork before the first use, or "
                "start processes with multiprocessing.get_context('spawn')"
            )
        elif self._encoder is not None and not self._encoder.survives_fork:
            _refuse(
                "a GPU context does not survive a fork: start processes with multiprocessing.get_context('spawn'), or fork "
                "before the first use"
            )
        self._at_rest = False
        self._reset()


def _reason(error: BaseException | None) -> BaseException:
    if error is None:
        return EngineClosedError("the engine was closed before this call was served")
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
        while not worker.ended(JOIN_SECONDS):
            if not told:
                told = True
                logger.warning(
                    "the interpreter exits as soon as the batch in hand has ended, for which it has waited %.0f s",
                    JOIN_SECONDS,
                )
