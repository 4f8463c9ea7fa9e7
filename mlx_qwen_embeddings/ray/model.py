"""One model on many nodes: found once, opened everywhere, and the same everywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import ray
from ray.exceptions import RayTaskError

from mlx_qwen_embeddings.bulk.corpus import CorpusJob
from mlx_qwen_embeddings.bulk.job import ModelStamp, embed
from mlx_qwen_embeddings.bulk.parquet import RangeReader, as_lists
from mlx_qwen_embeddings.checkpoint.fingerprint import fingerprint
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.model import locate
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.options import EmbedOptions
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.ray.placement import Placement
from mlx_qwen_embeddings.registry import list_models, resolve
from mlx_qwen_embeddings.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class SharedModel:
    """What a node needs to open the model that all the others have.

    A node takes the weights from its own Hugging Face cache, downloaded at the pinned commit if need be, or from a folder
    that lies at the same path everywhere. They are not sent through Ray: its object store would hold them on every node.

    Attributes:
        settings: Of each engine; what is not among them is taken from the node's environment.
        stamp: What the first node found.
    """

    settings: dict[str, Any]
    stamp: ModelStamp

    @classmethod
    def find(cls, model: str | None, settings: Mapping[str, Any], placement: Placement) -> Self:
        """Let a node, with what an actor will have, find or download the model, and pin its commit.

        Args:
            model: Alias, Hub name, or a folder that lies at the same path on every node.
            settings: Further fields of ``EngineSettings``.
            placement: What an actor is given.

        Raises:
            UnknownModelError: When the name means nothing.
            ModelLoadError: When the node cannot have the model.
            ValueError: When no node could hold an actor.
        """
        placement.check_fits()
        chosen = dict(settings) | _identifying(model, settings)
        node = ray.remote(**placement.resources())(_look)
        try:
            revision, stamp = ray.get(node.remote(chosen))
        except RayTaskError as error:
            raise _cause(error) from error
        return cls(chosen if revision is None else chosen | {"revision": revision}, stamp)

    def open(self) -> EmbeddingEngine:
        """Open an engine on this node.

        Raises:
            ModelLoadError: When what is found here is not what the first node found.
        """
        engine = EmbeddingEngine(**self.settings)
        found, wanted = (engine.fingerprint, engine.facts.dtype), (self.stamp.fingerprint, self.stamp.dtype)
        if found == wanted:
            return engine
        here = f"node {ray.get_runtime_context().get_node_id()} has {engine.settings.model} as {found}, another as {wanted}"
        remedy = "give dtype=, so that all compute alike" if found[0] == wanted[0] else _ONE_CONTENT
        message = f"{here}, so their vectors would not go together: {remedy}"
        raise ModelLoadError(message)


_ONE_CONTENT = "give a Hub name, a folder that all nodes share, or copies with the same times (rsync -a)"


def _identifying(model: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settle here which model is meant, since the nodes have an environment and a working folder of their own."""
    mine = EngineSettings.from_env(model=model, **{name: settings.get(name) for name in ("revision", "dtype", "device")})
    spec = resolve(mine.model)
    named = mine.model if spec in list_models() or not spec.local else str(Path(spec.source))
    return mine.model_dump(include={"revision", "dtype", "device"}) | {"model": named}


def _look(settings: dict[str, Any]) -> tuple[str | None, ModelStamp]:
    files, backend = locate(EngineSettings.from_env(**settings))
    return files.revision, ModelStamp(fingerprint(files), backend.device, backend.dtype, files.dimensions)


def _cause(error: RayTaskError) -> Exception:
    cause = error.cause
    if isinstance(cause, ModuleNotFoundError):
        message = f"a node lacks {cause.name!r}: install this package on every node, with the back end that suits it"
        return ModelLoadError(message)
    return cause if isinstance(cause, Exception) else error


class TableEmbedder:
    """Adds vectors to tables."""

    def __init__(self, model: SharedModel, column: str, role: Role, vector_column: str, options: EmbedOptions) -> None:
        """Open the engine and load the model."""
        self._engine = model.open().warmup()
        self._column, self._vector_column, self._role, self._options = column, vector_column, role, options

    def __call__(self, table: pa.Table) -> pa.Table:
        """Embed one column into another.

        Raises:
            ValueError: When there is no such column, or the vectors' is there already.
        """
        if self._column not in table.column_names or self._vector_column in table.column_names:
            there = ", ".join(table.column_names)
            message = (
                f"the dataset has the columns {there}: column={self._column!r} must be one of them, "
                f"and vector_column={self._vector_column!r} none"
            )
            raise ValueError(message)
        texts = table.column(self._column).to_pylist()
        return table.append_column(self._vector_column, as_lists(embed(self._engine, texts, self._role, self._options)))


class PartWriter:
    """Reads, embeds and writes parts of a corpus; Ray carries their numbers only."""

    def __init__(self, model: SharedModel, job: CorpusJob) -> None:
        """Remember what is to be done; an error here would be told as the actor's death."""
        self._model, self._job = model, job

    def ready(self) -> int:
        """Open the engine and load the model.

        Raises:
            FileNotFoundError: When this node does not see the job's folder.
        """
        if not self._job.state.is_dir():
            message = f"{self._job.folder} is not there on every node: name a folder that all of them share"
            raise FileNotFoundError(message)
        self._engine, self._reader = self._model.open().warmup(), RangeReader(self._job.source)
        return 0

    def do(self, number: int) -> int:
        """Do a part and give its rows."""
        return self._job.write(number, self._engine, self._reader)
