"""``mlx-qwen cache``: show, empty and shrink the persistent cache of vectors."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_qwen_embeddings._files import human_size
from mlx_qwen_embeddings.cli.common import JsonOption, YesOption, aligned, print_result
from mlx_qwen_embeddings.errors import CacheFileError

if TYPE_CHECKING:
    from mlx_qwen_embeddings.cache.sqlite_file import CacheFile, CacheInfo

MILLISECONDS_PER_DAY = 86_400_000
WAIT_SECONDS = 5
"""Longest wait for another process that writes to the cache."""

CachePath = Annotated[
    Path | None, typer.Argument(help="The cache's file or folder.", envvar="MLX_QWEN_CACHE_PATH", show_default=False)
]

cache = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and empty the persistent cache of vectors.")


@cache.command()
def info(path: CachePath = None, *, as_json: JsonOption = False) -> None:
    """Show how many vectors are stored, their size, and when they were last used."""
    with _open(_existing(path)) as file:
        found = file.info()
    print_result(asdict(found) | {"path": str(found.path)}, _table(found), as_json=as_json)


@cache.command()
def clear(path: CachePath = None, *, yes: YesOption = False) -> None:
    """Delete all vectors. A broken cache is deleted as a whole."""
    from mlx_qwen_embeddings.cache.sqlite_file import ERRORS, CacheFile, explain, is_broken_cache

    found = _existing(path)
    if not yes:
        typer.confirm(f"Delete everything in {found}?", abort=True)
    try:
        with closing(CacheFile(found, seconds=WAIT_SECONDS)) as file:
            typer.echo(f"deleted {_vectors(file.clear())}; {found} is empty")
    except ERRORS as error:
        if not is_broken_cache(found, error):
            raise CacheFileError(explain(found, error)) from error
        for name in (found.name, f"{found.name}-wal", f"{found.name}-shm"):
            found.with_name(name).unlink(missing_ok=True)
        typer.echo(f"{found} was broken ({error}) and has been deleted")


@cache.command()
def prune(
    path: CachePath = None,
    *,
    max_bytes: Annotated[
        int | None, typer.Option(help="Shrink the file to this many bytes, least recently used vectors first.", min=0)
    ] = None,
    unused_days: Annotated[
        float | None, typer.Option(help="Delete vectors that were not used for this many days.", min=0)
    ] = None,
    older_days: Annotated[
        float | None, typer.Option(help="Delete vectors that were stored more than this many days ago.", min=0)
    ] = None,
) -> None:
    """Delete some of the vectors, and free their space on disk."""
    if max_bytes is None and unused_days is None and older_days is None:
        raise typer.BadParameter("nothing to delete: give --max-bytes, --unused-days or --older-days")
    now = round(time.time() * 1000)
    with _open(_existing(path)) as file:
        deleted = file.prune(
            max_bytes=max_bytes,
            used=None if unused_days is None else now - round(unused_days * MILLISECONDS_PER_DAY),
            created=None if older_days is None else now - round(older_days * MILLISECONDS_PER_DAY),
        )
        left = file.info()
    typer.echo(f"deleted {_vectors(deleted)}; {_vectors(left.entries)} left, {human_size(left.file_bytes)} on disk")


def _existing(path: Path | None) -> Path:
    from mlx_qwen_embeddings.settings import EngineSettings

    if path is None:
        raise typer.BadParameter("which cache? Name its file or folder, or set MLX_QWEN_CACHE_PATH")
    found = EngineSettings(cache_path=path).cache_path
    if found is None or not found.is_file():
        raise FileNotFoundError(f"there is no cache at {found}: nothing was stored yet, or it is elsewhere")
    return found


@contextmanager
def _open(path: Path) -> Iterator["CacheFile"]:
    from mlx_qwen_embeddings.cache.sqlite_file import ERRORS, CacheFile, explain

    try:
        with closing(CacheFile(path, seconds=WAIT_SECONDS)) as file:
            yield file
    except ERRORS as error:
        raise CacheFileError(explain(path, error)) from error


def _table(found: "CacheInfo") -> str:
    rows = [
        ["file", str(found.path)],
        ["vectors", f"{found.entries:,}"],
        ["in use", human_size(found.used_bytes)],
        ["on disk", human_size(found.file_bytes)],
    ]
    if found.oldest is not None and found.newest is not None:
        first, last = (f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}" for moment in (found.oldest, found.newest))
        rows.append(["last used", f"{first} to {last} UTC"])
    return aligned(rows, left=2)


def _vectors(count: int) -> str:
    return f"{count:,} vector{'s' if count != 1 else ''}"
