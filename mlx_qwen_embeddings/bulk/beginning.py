"""Whether a job may begin, or takes up what an earlier run left."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from mlx_qwen_embeddings.backend import choose_backend
from mlx_qwen_embeddings.bulk.parts import empty, read_manifest, write_manifest
from mlx_qwen_embeddings.bulk.sources import Source
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.options import EmbedOptions
from mlx_qwen_embeddings.prompts import Role

VERSION = 1
"""Of the parts' form."""

_NOT_SHAPING = {"timeout", "wait", "show_progress"}


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Leave a finished file alone unless told otherwise."""
    if target.exists() and not overwrite:
        message = f"{target} exists: pass overwrite=True (--overwrite) to replace it"
        raise FileExistsError(message)


def identity(source: Source, engine: EmbeddingEngine, role: Role, options: EmbedOptions) -> dict[str, Any]:
    """Give all that shapes the vectors: with any other value, parts of two runs would not go together."""
    backend = choose_backend(engine.settings.device, engine.settings.dtype)
    return {
        "version": VERSION,
        "source": source.digest(),
        "column": source.column,
        "model": engine.fingerprint,
        "device": backend.device,
        "dtype": backend.dtype,
        "role": role,
        **shaping(options),
    }


def shaping(options: EmbedOptions) -> dict[str, Any]:
    """Give the options that shape vectors."""
    found = {name: value for name, value in asdict(options).items() if name not in _NOT_SHAPING}
    if options.truncate == "error":
        del found["max_length"]  # it shaped no vector that there is: raised, it lets the job go on
    return found


def begin(folder: Path, target: Path, job: dict[str, Any], *, overwrite: bool, restart: bool) -> bool:
    """Take up what an earlier run left; True when only its last step is missing."""
    found = read_manifest(folder)
    if found and found["job"] == job and not restart:
        if not found["finished"]:
            refuse_existing(target, overwrite=overwrite)
        return bool(found["finished"])
    if found and not restart:
        refuse_other(folder, found["job"], job)
    refuse_existing(target, overwrite=overwrite)
    empty(folder)
    write_manifest(folder, job, finished=False)
    return False


def refuse_other(folder: Path, found: dict[str, Any], job: dict[str, Any]) -> NoReturn:
    """Leave alone what another job has done."""
    differing = [name for name in found | job if found.get(name) != job.get(name)]
    message = (
        f"{folder} holds what a run with another {', another '.join(differing)} has done: "
        "repeat that one to continue it, or pass restart=True (--restart) to drop it"
    )
    raise ValueError(message)
