"""Parts of a corpus, done by the actors of a cluster."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from mlx_qwen_embeddings.bulk.corpus import CorpusJob
from mlx_qwen_embeddings.bulk.job import ModelStamp
from mlx_qwen_embeddings.ray.model import PartWriter, SharedModel
from mlx_qwen_embeddings.ray.placement import CALLS_AT_ONCE, Placement
from mlx_qwen_embeddings.ray.pool import Pool


class RayRunner:
    """Computes on a cluster, for ``embed_parquet(..., runner=RayRunner(...))``.

    Source and output must lie where all nodes see them. Actors read and write for themselves: no text and no vector passes
    through the driver or Ray's object store. Actors come as the cluster has room; when one dies, the others do its parts.
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
            address: Of the head node, ``host:port``; "auto" is the cluster that runs on this machine, "local" starts one
                of this machine alone; None takes ``RAY_ADDRESS``, else does as "auto" and then as "local".
            model: Alias, Hub name, or a folder that lies at the same path on every node; None takes ``MLX_QWEN_MODEL``,
                else "small".
            placement: How many actors, and what each is given.
            settings: Further fields of ``EngineSettings`` for each actor's engine.

        Raises:
            ConnectionError: When there is no cluster at the address.
        """
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        self._placement = placement or Placement()
        self._model, self._settings = model, dict(settings or {})
        self._shared: SharedModel | None = None

    def stamp(self) -> ModelStamp:
        """Let a node find the model, or download it.

        Raises:
            UnknownModelError: When the name means nothing.
            ModelLoadError: When the node cannot have the model.
            ValueError: When no node could hold an actor.
        """
        return self._opened().stamp

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        """Do the parts and give the rows of each as it is done.

        Raises:
            Exception: What an actor raised; what was done is kept.
            WorkersDiedError: When actors die without end.
        """
        placement = self._placement.settled()
        made = ray.remote(PartWriter).options(max_concurrency=CALLS_AT_ONCE, **placement.resources())
        shared, held = self._opened(), ray.put(job)
        yield from Pool(lambda: made.remote(shared, held), placement).run(missing)

    def _opened(self) -> SharedModel:
        if self._shared is None:
            self._shared = SharedModel.find(self._model, self._settings, self._placement)
        return self._shared
