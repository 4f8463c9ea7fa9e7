"""``RayRunner``: embed the parts of a corpus with Ray Data's actors."""

import logging
import pickle
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
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
"""How many actors may die over one part before the run fails."""


class RayRunner:
    """Computes on a cluster, for ``embed_parquet(..., runner=RayRunner(...))``.

    Every node must see the source and the output under the same paths. Actors read and write the files themselves; Ray
    transfers only the numbers of the parts. When an actor dies, Ray Data passes its parts to other actors.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        model: str | None = None,
        placement: Placement | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Connect to the cluster, unless this process is already connected to one.

        Args:
            address: Address of the head node, ``host:port``. "auto" is the cluster that runs on this machine; "local"
                starts a cluster of this machine only. None takes ``RAY_ADDRESS``, or else tries "auto" and then "local".
            model: Alias, Hub name, or a folder with the same path on every node; None takes ``MLX_QWEN_MODEL``, or else
                "small".
            placement: Number of actors, and the resources of each.
            settings: Further fields of ``EngineSettings`` for each actor's engine.

        Raises:
            ConnectionError: When there is no cluster at the address.
        """
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            logging.getLogger("ray.data").setLevel(logging.ERROR)  # it logs every run and every restart
        self._placement = placement or Placement()
        self._model, self._settings = model, dict(settings or {})

    def stamp(self) -> ModelStamp:
        """Find or download the model on one of the nodes, and return its stamp.

        Raises:
            UnknownModelError: When no model has this name.
            ModelLoadError: When the node cannot load the model.
            ValueError: When no node has room for an actor.
        """
        return self._shared.stamp

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Embed and write the missing parts, and yield the number of rows of each finished part.

        Raises:
            Exception: The error of an actor; finished parts are kept.
            WorkersDiedError: When several actors died over one part.
        """
        numbers = ray.data.from_items(list(missing), override_num_blocks=len(missing))
        written = numbers.map_batches(
            PartWriter,
            batch_size=1,
            compute=self._placement.strategy(),
            fn_constructor_args=(self._shared, job),
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
            batches.close()  # stops the actors at once

    @cached_property
    def _shared(self) -> SharedModel:
        return SharedModel.find(self._model, self._settings, self._placement)


class PartWriter:
    """An actor that reads, embeds and writes parts of a corpus."""

    def __init__(self, model: SharedModel, job: CorpusJob) -> None:
        # The model is loaded for the first part: Ray would report an error here as a dead actor.
        self._model, self._job, self._lock = model, job, threading.Lock()
        self._opened: tuple[EmbeddingEngine, RangeReader] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the part whose number is in the batch, and return its number of rows or its error."""
        try:
            rows, error = self._write(int(batch["item"][0])), b""
        except Exception as failure:  # noqa: BLE001 - Ray Data would wrap it, and keep the other actors running
            rows, error = 0, pickle.dumps(failure)
        return {"rows": np.array([rows]), "error": np.array([error], object)}

    def _write(self, number: int) -> int:
        job = self._job
        if not job.state.is_dir():
            raise FileNotFoundError(f"{job.folder} is not there on every node: choose a folder that all of them share")
        # An actor that dies leaves its mark behind. Ray Data alone would retry a part that kills every actor forever.
        name = job.path(number).name
        if len(list(job.state.glob(f"{name}.*.started.tmp"))) >= MOST_DEATHS:
            causes = "they may have run out of memory, or lost their nodes"
            raise WorkersDiedError(f"{MOST_DEATHS} actors died over part {number}: {causes}")
        mark = job.state / f"{name}.{uuid.uuid4().hex}.started.tmp"
        mark.touch()
        try:
            return job.write(number, *self._open())
        finally:
            mark.unlink(missing_ok=True)

    def _open(self) -> tuple[EmbeddingEngine, RangeReader]:
        with self._lock:  # an actor works on two parts at once
            if self._opened is None:
                self._opened = self._model.open().warmup(), RangeReader(self._job.source)
            return self._opened
