"""``mlx-qwen cache``: what the persistent cache holds, and how to make it smaller."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_qwen_embeddings._files import human_size

if TYPE_CHECKING:
    from mlx_qwen_embeddings.cache.sqlite_file import CacheFile, CacheInfo

# numpy and pydantic are imported by the commands, since they take a quarter of a second that --help need not.

DAY = 86_400_000
"""Milliseconds."""

CachePath = Annotated[
    Path | None, typer.Argument(help="The cache's file or folder.", envvar="MLX_QWEN_CACHE_PATH", show_default=False)
]

cache = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="See and empty the persistent cache of vectors.")


@cache.command()
def info(
    path: CachePath = None, *, as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False
) -> None:
    """Say how many vectors there are, how large they are, and when they were last used."""
    with _open(_existing(path)) as file:
        facts = file.info()
    typer.echo(json.dumps(asdict(facts) | {"path": str(facts.path)}, indent=2) if as_json else _table(facts))


@cache.command()
def clear(path: CachePath = None, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Drop all vectors; a cache that is broken is deleted."""
    found = _existing(path)
    if not yes:
        typer.confirm(f"Drop everything in {found}?", abort=True)
    try:
        with closing(_connect(found)) as file:
            typer.echo(f"dropped {_vectors(file.clear())}; {found} is empty")
    except sqlite3.DatabaseError as error:
        _delete_broken(found, error)


@cache.command()
def prune(
    path: CachePath = None,
    *,
    max_bytes: Annotated[int | None, typer.Option(help="Keep at most so many bytes, the last used.", min=0)] = None,
    unused_days: Annotated[float | None, typer.Option(help="Drop what was not used for so many days.", min=0)] = None,
    older_days: Annotated[float | None, typer.Option(help="Drop what was stored so many days ago.", min=0)] = None,
) -> None:
    """Drop some vectors, and give their room back to the disk."""
    if max_bytes is None and unused_days is None and older_days is None:
        message = "nothing to drop: say --max-bytes, --unused-days or --older-days"
        raise typer.BadParameter(message)
    now = round(time.time() * 1000)
    with _open(_existing(path)) as file:
        dropped = file.prune(
            max_bytes=max_bytes,
            used=None if unused_days is None else now - round(unused_days * DAY),
            created=None if older_days is None else now - round(older_days * DAY),
        )
        facts = file.info()
    typer.echo(f"dropped {_vectors(dropped)}; {_vectors(facts.entries)} left, {human_size(facts.file_bytes)} on disk")


def _existing(path: Path | None) -> Path:
    from mlx_qwen_embeddings.settings import EngineSettings  # noqa: PLC0415 - as said above

    if path is None:
        message = "which cache? Name its file or folder, or set MLX_QWEN_CACHE_PATH"
        raise typer.BadParameter(message)
    found = EngineSettings(cache_path=path).cache_path
    if found is None or not found.is_file():
        message = f"there is no cache at {found}: nothing was stored yet, or it is elsewhere"
        raise FileNotFoundError(message)
    return found


def _connect(path: Path) -> "CacheFile":
    from mlx_qwen_embeddings.cache.sqlite_file import CacheFile  # noqa: PLC0415 - as said above

    return CacheFile(path, seconds=5)


@contextmanager
def _open(path: Path) -> Iterator["CacheFile"]:
    from mlx_qwen_embeddings.cache.sqlite_file import describe  # noqa: PLC0415 - as said above
    from mlx_qwen_embeddings.errors import CacheFileError  # noqa: PLC0415 - as said above

    try:
        with closing(_connect(path)) as file:
            yield file
    except sqlite3.Error as error:
        raise CacheFileError(describe(path, error)) from error


def _delete_broken(path: Path, error: sqlite3.Error) -> None:
    """Delete a cache that SQLite cannot read; whatever was no cache of this package is left alone."""
    from mlx_qwen_embeddings.cache.sqlite_file import describe, is_broken, is_ours  # noqa: PLC0415 - as said above
    from mlx_qwen_embeddings.errors import CacheFileError  # noqa: PLC0415 - as said above

    if not (is_broken(error) and is_ours(path)):
        raise CacheFileError(describe(path, error)) from error
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    typer.echo(f"{path} was broken ({error}) and is deleted")


def _table(facts: "CacheInfo") -> str:
    lines = {
        "file": str(facts.path),
        "vectors": f"{facts.entries:,}",
        "in use": human_size(facts.used_bytes),
        "on disk": human_size(facts.file_bytes),
    }
    if facts.oldest is not None and facts.newest is not None:
        lines["last used"] = f"{_moment(facts.oldest)} to {_moment(facts.newest)} UTC"
    return "\n".join(f"{name:<10} {value}" for name, value in lines.items())


def _vectors(count: int) -> str:
    return f"{count:,} vector{'s' if count != 1 else ''}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
