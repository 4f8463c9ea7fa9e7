"""One job from a source to a finished file, in parts that outlive a kill."""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Unpack

from mlx_qwen_embeddings._files import move, sync
from mlx_qwen_embeddings._html import facts_table
from mlx_qwen_embeddings.bulk.computing import compute, quantized
from mlx_qwen_embeddings.bulk.opening import open_source
from mlx_qwen_embeddings.bulk.parts import MANIFEST, WHOLE, Parts, empty, locked, read_manifest, remove, write_manifest
from mlx_qwen_embeddings.bulk.sources import Source
from mlx_qwen_embeddings.bulk.targets import Format, columns_of, format_of, write_target
from mlx_qwen_embeddings.compute.mlx.backend import choose_backend
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.shared import get_engine
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions
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


PART_ROWS = 512
"""Rows a part: half of what a kill can cost, and of what is sorted by length together."""


@dataclass(frozen=True, slots=True)
class BulkReport:
    """What was done.

    Attributes:
        target: The finished file.
        rows: Rows in it.
        resumed: Those of them that an earlier run had embedded.
        dimensions: Width of the vectors that were computed; "binary" and "ubinary" pack eight into a byte.
        seconds: How long this run took.
    """

    target: Path
    rows: int
    resumed: int
    dimensions: int
    seconds: float

    def _repr_html_(self) -> str:
        facts = {"rows": self.rows, "of an earlier run": self.resumed, "dimensions": self.dimensions}
        return facts_table(str(self.target), facts | {"time": f"{self.seconds:.2f} s"})


def embed_file(
    source: str | Path | Source,
    target: str | Path,
    *,
    model: str | EmbeddingEngine | None = None,
    column: str = "text",
    role: Role = "document",
    vector_column: str = "embedding",
    part_rows: int = PART_ROWS,
    overwrite: bool = False,
    restart: bool = False,
    **options: Unpack[CallOptions],
) -> BulkReport:
    """Embed a file's rows into a file that has every row, in the same order, with its vector.

    Vectors are kept in a folder beside the target, ``<target>.parts``, until all are there; then the target appears, whole,
    and the folder goes. A run that was killed is continued by the same call: at most two parts are computed again.

    Args:
        source: ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``; any other file is a text a line.
        target: ``.jsonl``, ``.json`` or ``.parquet``, which carry all columns on unchanged, or ``.npy``, which has the
            vectors alone.
        model: An engine, or what ``get_engine`` takes.
        column: Which column of the source holds the texts.
        role: Whether they are documents or queries.
        vector_column: Name of the vectors in the target.
        part_rows: Rows a part.
        overwrite: Whether a target that is there is replaced.
        restart: Whether to drop what an earlier run has done.
        **options: See ``EmbedOptions``; ``timeout`` holds for each part, ``show_progress`` draws one bar for all.

    Raises:
        ValueError: When the source cannot be read, or the job was begun otherwise; the message says what differs.
        FileExistsError: When the target is there.
        OSError: When another process works at the same target, or the disk is full; what was done is kept.
        MLXQwenEmbeddingsError: As the engine's methods.
    """
    start, path = time.perf_counter(), Path(target)
    checked = EmbedOptions(**options)
    precision, checked = checked.precision, replace(checked, precision="float32")  # the parts hold whole vectors
    form = _check(path, part_rows, overwrite=overwrite)
    rows = source if isinstance(source, Source) else open_source(Path(source), column)
    schema, count = columns_of(rows, form, vector_column), sum(1 for _ in rows.texts())
    engine = model if isinstance(model, EmbeddingEngine) else get_engine(model)
    job = identity(rows, engine, role, checked) | {"rows": count, "part_rows": part_rows}
    job |= {"format": form, "vector_column": vector_column, "precision": precision}
    folder = _folder(path)
    with locked(folder):
        finished = begin(folder, path, job, overwrite=overwrite, restart=restart)
        parts = Parts(folder, count, checked.dimensions or engine.dimensions, part_rows)
        resumed = count if finished else compute(parts, rows, engine, role, checked)
        if not finished:
            if rows.digest() != job["source"]:
                message = f"{rows.name} was changed while it was embedded: run it again with restart=True (--restart)"
                raise ValueError(message)
            vectors = quantized(parts.blocks(), parts.dimensions, precision)
            write_target(rows, vectors, folder / WHOLE, form, rows=count, column=vector_column, schema=schema)
            sync(folder / WHOLE)
            write_manifest(folder, job, finished=True)
        if (folder / WHOLE).exists():
            move(folder / WHOLE, path)
        remove(folder)
    return BulkReport(path, count, resumed, parts.dimensions, time.perf_counter() - start)


def _folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.parts")


def _check(target: Path, part_rows: int, *, overwrite: bool) -> Format:
    """Refuse what could not end well before anything is read."""
    form = format_of(target)
    if part_rows < 1:
        message = f"part_rows must be at least 1, got {part_rows}"
        raise ValueError(message)
    if not (_folder(target) / MANIFEST).exists():
        with suppress(OSError):
            _folder(target).rmdir()  # it is empty where a run was killed at its very last step
        refuse_existing(target, overwrite=overwrite)
    return form
