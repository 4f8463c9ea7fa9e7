"""Check what ``huggingface_hub`` does not: that a cached model lacks no file, and that its large files are not corrupted.

``huggingface_hub`` refuses a large file of the wrong size, but does not compare its content. When another program has
downloaded only some files of a snapshot, it takes them for all. The cache names a large file by the sha256 that the Hub
announced (``blobs/<sha256>``), so its content can be checked. That is done once, because hashing 16 GB takes longer than
loading them, and recorded beside the blobs. A cache without symbolic links has no such names, and is not checked.
"""

import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import file_digest, replaced
from mlx_qwen_embeddings.errors import ModelLoadError

RECORD = ".mlx-qwen-verified.json"
"""``files``: size and time of change of every checked blob. ``complete``: the patterns downloaded of every commit."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


def is_complete(snapshot: Path, patterns: list[str]) -> bool:
    """Return whether the snapshot is known to have every file of the repository that the patterns name."""
    # With the list of a commit's files in its cache, huggingface_hub itself returns no snapshot that lacks one.
    listing = _repository(snapshot) / "trees" / f"{snapshot.name}.json"
    return listing.is_file() or _read(snapshot)["complete"].get(snapshot.name) == patterns


def mark_complete(snapshot: Path, patterns: list[str]) -> None:
    """Record that every file of the snapshot was downloaded."""
    record = _read(snapshot)
    record["complete"][snapshot.name] = patterns
    _write(snapshot, record)


def refuse_corrupted(snapshot: Path, patterns: list[str]) -> None:
    """Compare the large files with their sha256, unless that was done and they have not changed since.

    Raises:
        ModelLoadError: When one differs; it is removed, so that the next try downloads it again.
    """
    record = _read(snapshot)
    links = _large_files(snapshot, patterns)
    unchecked = {blob: _stamp(blob) for blob in links.values() if record["files"].get(blob.name) != _stamp(blob)}
    if not unchecked:
        return
    logger.info("checking the sha256 of %d file(s) in %s, once", len(unchecked), snapshot)
    corrupted = {blob for blob in unchecked if file_digest(blob, "sha256") != blob.name}
    record["files"].update({blob.name: stamp for blob, stamp in unchecked.items() if blob not in corrupted})
    _write(snapshot, record)
    if corrupted:
        raise ModelLoadError(_remove(snapshot, {link: blob for link, blob in links.items() if blob in corrupted}))


def _repository(snapshot: Path) -> Path:
    return snapshot.parent.parent


def _large_files(snapshot: Path, patterns: list[str]) -> dict[Path, Path]:
    """Return blobs by the links to them."""
    links = (path for path in sorted(snapshot.rglob("*")) if path.is_symlink() and any(map(path.match, patterns)))
    # One step only: a blob may itself be a link into a store that several models share, where names are other hashes.
    blobs = {link: Path(os.path.normpath(link.parent / link.readlink())) for link in links}
    return {link: blob for link, blob in blobs.items() if _SHA256.fullmatch(blob.name) and blob.is_file()}


def _stamp(blob: Path) -> list[int]:
    stat = blob.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _remove(snapshot: Path, corrupted: dict[Path, Path]) -> str:
    """Remove corrupted files from the cache, and return what to tell the user."""
    names = ", ".join(str(link.relative_to(snapshot)) for link in corrupted)
    message = f"{names} in {snapshot} is not what the Hub announced (its sha256 differs): the download was corrupted. "
    try:
        for link, blob in corrupted.items():
            content = blob.resolve()
            blob.unlink(missing_ok=True)
            link.unlink()
            # Content that models share would be linked again. What lies outside the cache is left alone.
            if content.is_relative_to(blob.parents[2].resolve()):
                content.unlink(missing_ok=True)
    except OSError as error:
        return f"{message}It could not be removed ({error}): delete {', '.join(map(str, corrupted.values()))} and try again"
    return f"{message}It was removed from the cache: try again, which downloads it again"


def _read(snapshot: Path) -> dict[str, dict[str, Any]]:
    parts: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):  # without a record, or with a broken one, everything is checked again
        parts = dict(json.loads((_repository(snapshot) / RECORD).read_text(encoding="utf-8")))
    return {name: part if isinstance(part := parts.get(name), dict) else {} for name in ("files", "complete")}


def _write(snapshot: Path, record: dict[str, dict[str, Any]]) -> None:
    path = _repository(snapshot) / RECORD
    try:
        with replaced(path) as file:
            file.write(json.dumps(record).encode())
    except OSError as error:  # a cache may be read-only: it is used all the same, and checked again the next time
        logger.info("what was checked cannot be recorded in %s: %s", path, error)
