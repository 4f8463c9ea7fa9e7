"""One model on many nodes: it is found once, and every node must open the same one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayTaskError

from mlx_qwen_embeddings.bulk.job import ModelStamp
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.ray.placement import Placement
from mlx_qwen_embeddings.registry import list_models, resolve
from mlx_qwen_embeddings.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class SharedModel:
    """What a node needs to open the same model as all the others.

    A node reads the weights from a folder with the same path everywhere, or from its own Hugging Face cache, to which it
    downloads the pinned commit if necessary. Ray does not transfer weights: its object store would hold them on every node.

    Attributes:
        settings: Settings of each engine; all others come from the node's environment.
        stamp: Stamp of the model that the first node found.
    """

    settings: dict[str, Any]
    stamp: ModelStamp

    @classmethod
    def find(cls, model: str | None, settings: Mapping[str, Any], placement: Placement) -> Self:
        """Find or download the model on one node, with the resources of an actor, and pin its commit.

        Raises:
            UnknownModelError: When no model has this name.
            ModelLoadError: When the node cannot load the model.
            ValueError: When no node has room for an actor.
        """
        placement.check_fits()
        chosen = dict(settings) | _model_settings(model, settings)
        try:
            revision, stamp = ray.get(ray.remote(**placement.resources())(_open_on_node).remote(chosen))
        except RayTaskError as error:
            raise _cause(error) from error
        return cls(chosen if revision is None else chosen | {"revision": revision}, stamp)

    def open(self) -> EmbeddingEngine:
        """Open an engine on this node.

        Raises:
            ModelLoadError: When this node's model differs from the one that the first node found.
        """
        engine = EmbeddingEngine(**self.settings)
        found, wanted = (engine.fingerprint, engine.facts.dtype), (self.stamp.fingerprint, self.stamp.dtype)
        if found == wanted:
            return engine
        node = ray.get_runtime_context().get_node_id()
        here = f"node {node} opened {engine.settings.model} as {found}, the first node as {wanted}"
        remedy = "set dtype=, so that all nodes compute in one type" if found[0] == wanted[0] else _ONE_CONTENT
        raise ModelLoadError(f"{here}, so their vectors cannot be compared: {remedy}")


_ONE_CONTENT = "use a Hub name, a folder that all nodes share, or copies with the same modification times (rsync -a)"


def _model_settings(model: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve the model on this machine, because a node may have another environment and working folder."""
    mine = EngineSettings.from_env(model=model, **{name: settings.get(name) for name in ("revision", "dtype", "device")})
    spec = resolve(mine.model)
    named = mine.model if spec in list_models() or not spec.local else str(Path(spec.source))
    return mine.model_dump(include={"revision", "dtype", "device"}) | {"model": named}


def _open_on_node(settings: dict[str, Any]) -> tuple[str | None, ModelStamp]:
    with EmbeddingEngine(**settings) as engine:
        return engine.revision, ModelStamp.of(engine)


def _cause(error: RayTaskError) -> Exception:
    cause = error.cause
    if isinstance(cause, ModuleNotFoundError):
        message = f"a node lacks {cause.name!r}: install this package on every node, with the back end that suits it"
        return ModelLoadError(message)
    return cause if isinstance(cause, Exception) else error
