"""The model of a database: what is not named is as the database has it, and another one is refused."""

from pathlib import Path

from mlx_qwen_embeddings.errors import UnknownModelError
from mlx_qwen_embeddings.langchain import MLXQwenEmbeddings
from mlx_qwen_embeddings.registry import resolve
from mlx_qwen_embeddings.search.store import Made, mismatch, read_record
from mlx_qwen_embeddings.shared import get_engine


def embeddings_for(
    database: Path,
    *,
    model: str | None = None,
    revision: str | None = None,
    dimensions: int | None = None,
    instruction: str | None = None,
    cache_dir: Path | None = None,
    show_progress: bool = False,
) -> MLXQwenEmbeddings:
    """Make the embeddings of a database.

    Args:
        database: Folder of the database, which need not be there yet.
        model: Alias, Hub name or local folder; None takes the database's, and for a new one the default.
        revision: Branch, tag or commit on the Hub; None takes the database's.
        dimensions: None takes the database's, and for a new one all.
        instruction: Before each question; None takes the database's, and for a new one the model's own.
        cache_dir: Folder of downloaded models; None is the Hugging Face cache.
        show_progress: Whether to draw a progress bar over documents.

    Raises:
        IndexMismatchError: When the database was made with another model.
        UnknownModelError: When the name means nothing.
        ModelLoadError: When the model cannot be had.
    """
    made = read_record(database)
    if made is not None:
        model = model or made.model
        if revision is None and not resolve(model).local:
            revision = made.revision
    if cache_dir is not None:
        get_engine(model, revision=revision, cache_dir=cache_dir)  # shared: the embeddings below get the same one
    if made is not None:
        # Its width and its instruction come after the check: of another model they say nothing.
        check_model(database, made, MLXQwenEmbeddings(model, revision=revision))
        dimensions = made.dimensions if dimensions is None else dimensions
        instruction = made.instruction if instruction is None else instruction
    return MLXQwenEmbeddings(
        model, revision=revision, dimensions=dimensions, query_instruction=instruction, show_progress=show_progress
    )


def check_model(database: Path, made: Made, embeddings: MLXQwenEmbeddings) -> None:
    """Refuse another model than the database's: by its name, before it is downloaded, or else by its content.

    Args:
        database: Folder of the database.
        made: How it was made.
        embeddings: What is to be used.

    Raises:
        IndexMismatchError: When it is another; the message says which was used.
    """
    repository = _repository(embeddings.model)
    another = f"the model {made.model!r}, not {embeddings.model!r}"
    if repository is not None and repository != _repository(made.model):
        raise mismatch(database, another)
    engine = embeddings.engine
    if engine.fingerprint == made.fingerprint:
        return
    if repository is not None and made.revision not in {None, engine.revision}:
        raise mismatch(database, f"the model {made.model!r} at revision {made.revision!r}, not {engine.revision!r}")
    if embeddings.model != made.model:
        raise mismatch(database, another)
    raise mismatch(database, f"the model {made.model!r} of another content")


def _repository(model: str) -> str | None:
    """Give a model's name on the Hub; None for a folder or a file, which may hold the same content as another."""
    try:
        spec = resolve(model)
    except UnknownModelError:  # its folder is gone
        return None
    return None if spec.local else spec.source.partition(":")[0]
