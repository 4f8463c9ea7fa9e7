"""``RayRunner``: the parts of a corpus, embedded by Ray Data's actors."""

import logging
import pickle
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import ray
import ray.data

from mlx_qwen_embeddings.bulk.corpus import CorpusJob
from mlx_qwen_embeddings.bulk.job import ModelStamp
from mlx_qwen_embeddings.bulk.parquet import RangeReader
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.errors import WorkersDiedError
from mlx_qwen_embeddings.ray.model import SharedModel
from mlx_qwen_embeddings.ray.placement import Placement

MOST_DEATHS = 3
"""Actors that may die while they work on the same part."""


class RayRunner:
    """Computes on a cluster, for ``embed_parquet(..., runner=RayRunner(...))``.

    Source and output must be where all nodes see them: actors read and write files themselves, and Ray only carries the
    numbers of the parts. When an actor dies, Ray Data lets others do its parts.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        model: str | None = None,
        placement: Placement | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Connect to the cluster, unless this process is connected to one.

        Args:
            address: Of the head node, ``host:port``; "auto" is the cluster that runs on this machine, "local" starts one of
                this machine alone. None takes ``RAY_ADDRESS``, or else tries "auto" and then "local".
            model: Alias, Hub name, or a folder with the same path on every node; None takes ``MLX_QWEN_MODEL``, or else
                "small".
            placement: How many actors there are, and what each is given.
            settings: Further fields of ``EngineSettings`` for each actor's engine.

        Raises:
            ConnectionError: When there is no cluster at the address.
        """
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports each run and each restart
        self._placement = placement or Placement()
        self._model, self._settings = model, dict(settings or {})
        self._shared: SharedModel | None = None

    def stamp(self) -> ModelStamp:
        """Let a node find or download the model, and return its stamp.

        Raises:
            UnknownModelError: When no model has this name.
            ModelLoadError: When the node cannot get the model.
            ValueError: When no node has room for an actor.
        """
        return self._found().stamp

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Embed and write the parts, and yield the rows of each when it is done.

        Raises:
            Exception: What an actor raised; what was done is kept.
            WorkersDiedError: When several actors die over one part.
        """
        numbers = ray.data.from_items(list(missing), override_num_blocks=len(missing))
        written = numbers.map_batches(
            PartWriter,
            batch_size=1,
            compute=self._placement.strategy(),
            fn_constructor_args=(self._found(), job),
            **self._placement.resources(),
        )
        written.context.enable_progress_bars = written.context.print_on_execution_start = False
        batches: Any = iter(written.iter_batches(batch_size=None, prefetch_batches=0))
        try:
            for batch in batches:
                for rows, error in zip(batch["rows"], batch["error"], strict=True):
                    if error:
                        raise pickle.loads(error)  # noqa: S301 - from an actor of this run
                    yield int(rows)
        finally:
            batches.close()  # ends the actors at once

    def _found(self) -> SharedModel:
        if self._shared is None:
            self._shared = SharedModel.find(self._model, self._settings, self._placement)
        return self._shared


class PartWriter:
    """An actor that reads, embeds and writes parts of a corpus."""

    def __init__(self, model: SharedModel, job: CorpusJob) -> None:
        """Do nothing yet: Ray would report an error here as the actor's death."""
        self._model, self._job, self._lock = model, job, threading.Lock()
        self._opened: tuple[EmbeddingEngine, RangeReader] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the part whose number is in the batch, and return its rows, or the error that it ended with."""
        try:
            rows, error = self._write(int(batch["item"][0])), b""
        except Exception as failure:  # noqa: BLE001 - Ray Data would wrap it and keep the other actors running
            rows, error = 0, pickle.dumps(failure)
        return {"rows": np.array([rows]), "error": np.array([error], object)}

    def _write(self, number: int) -> int:
        job = self._job
        if not job.state.is_dir():
            message = f"{job.folder} is not there on every node: choose a folder that all of them share"
            raise FileNotFoundError(message)
        # An actor that dies leaves its mark. Ray Data alone would go on for ever with a part that kills every actor.
        name = job.path(number).name
        if len(list(job.state.glob(f"{name}.*.started.tmp"))) >= MOST_DEATHS:
            message = f"{MOST_DEATHS} actors died over part {number}: they may have run out of memory, or lost their nodes"
            raise WorkersDiedError(message)
        mark = job.state / f"{name}.{uuid.uuid4().hex}.started.tmp"
        mark.touch()
        try:
            return job.write(number, *self._open())
        finally:
            mark.unlink(missing_ok=True)

    def _open(self) -> tuple[EmbeddingEngine, RangeReader]:
        with self._lock:  # two parts are in hand at once
            if self._opened is None:
                self._opened = self._model.open().warmup(), RangeReader(self._job.source)
            return self._opened
