"""Is a model whole, and does it give the vectors that it should? The engine mends and warns; this fails and says how."""

from pathlib import Path
from typing import Any

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.hub import open_folder
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.registry import ModelSpec, resolve
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.tools.verify.folder import folder_checks
from mlx_qwen_embeddings.tools.verify.known import Known, card_of, known_model
from mlx_qwen_embeddings.tools.verify.report import Check, VerifyReport
from mlx_qwen_embeddings.tools.verify.vectors import vector_checks

__all__ = ["Check", "VerifyReport", "verify"]


def verify(model: str, *, revision: str | None = None, **settings: Any) -> VerifyReport:
    """Check a model's files, its vectors and, where it is a known one, the numbers that are published about it.

    The model is loaded by an engine of its own, which is closed at the end.

    Args:
        model: Alias, Hub name or local folder.
        revision: Branch, tag or commit on the Hub; None is the main branch.
        **settings: Further fields of ``EngineSettings``, such as ``dtype``.

    Returns:
        The report; a model that does not load is a failed row of it.

    Raises:
        UnknownModelError: When the name means nothing.
        MissingExtraError: When MLX has no back end here.
        pydantic.ValidationError: When a setting does not fit.
    """
    wanted = EngineSettings.from_env(**settings | {"model": str(model), "revision": revision, "cache_bytes": 2**26})
    wanted = wanted.model_copy(update={"cache_path": None})  # what is checked is the model, not what it once gave
    spec = resolve(wanted.model)
    dtype = choose_backend(wanted.device, wanted.dtype).dtype
    try:
        files, weights, known = _open(spec, wanted)
    except ModelLoadError as error:
        row = Check("loads", ok=False, expected="a whole model", found="it cannot be opened", remedy=str(error))
        return VerifyReport(wanted.model, (row,))
    with EmbeddingEngine(settings=wanted) as engine:
        rows = (
            *folder_checks(files, weights, known, dtype, card_of(spec, files, known)),
            *vector_checks(engine, dtype, known, _tolerance(files, known, dtype)),
        )
    return VerifyReport(wanted.model, rows, known.name if known else None)


def _open(spec: ModelSpec, wanted: EngineSettings) -> tuple[ModelFiles, list[Path], Known | None]:
    # It imports MLX, which must come after the choice of a back end.
    from mlx_qwen_embeddings.compute.weights import weight_paths  # noqa: PLC0415 - as said above

    files = open_folder(spec, revision=wanted.revision, offline=wanted.offline, cache_dir=wanted.cache_dir)
    _ = files.family
    weights = [] if files.gguf else weight_paths(files)
    return files, weights, known_model(spec.source, files, weights)


def _tolerance(files: ModelFiles, known: Known | None, dtype: str) -> float:
    kinds = {tensor.kind for tensor in files.header.tensors.values()} if files.header else set()
    return known.tolerance(files.config, dtype, kinds) if known else 0.0
