"""Whether what lies in the Hugging Face cache is whole, and is what the Hub announced.

``huggingface_hub`` compares a download's size alone. The Hub knows a large file by its sha256 and the cache names it so
(``blobs/<sha256>``), hence it can be checked at any time: once, since hashing 16 GB takes longer than loading them. What
was found is kept in a record beside the blobs. A cache made without symbolic links has lost the names: there nothing can be
compared.
"""

import json
import logging
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import file_digest
from mlx_qwen_embeddings.errors import ModelLoadError

RECORD = ".mlx-qwen-verified.json"
"""``files``: size and time of change of every checked blob. ``whole``: what was fetched of every fetched commit."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


def is_known_whole(snapshot: Path, patterns: list[str]) -> bool:
    """Say whether the snapshot is known to have every file that the patterns name.

    A snapshot that another program began may lack files without which a model means something else, such as those that
    name its pooling and its prompts.
    """
    # With a listing of the commit in its cache, huggingface_hub itself gives no snapshot that lacks a file.
    listing = _repository(snapshot) / "trees" / f"{snapshot.name}.json"
    return listing.is_file() or _read(snapshot)["whole"].get(snapshot.name) == patterns


def remember_whole(snapshot: Path, patterns: list[str]) -> None:
    """Remember that the snapshot was fetched to the end."""
    record = _read(snapshot)
    record["whole"][snapshot.name] = patterns
    _write(snapshot, record)


def refuse_corrupted(snapshot: Path, patterns: list[str]) -> None:
    """Compare the large files with their sha256, unless that was done and they have not changed since.

    Raises:
        ModelLoadError: When one differs; it is removed, so that the next try downloads it again.
    """
    record = _read(snapshot)
    checked: dict[str, Any] = record["files"]
    files = _large_files(snapshot, patterns)
    unchecked = {blob: _stamp(blob) for blob in files.values() if checked.get(blob.name) != _stamp(blob)}
    if not unchecked:
        return
    logger.info("checking the sha256 of %d file(s) in %s, once", len(unchecked), snapshot)
    corrupted = {blob for blob in unchecked if file_digest(blob, "sha256") != blob.name}
    checked.update({blob.name: stamp for blob, stamp in unchecked.items() if blob not in corrupted})
    _write(snapshot, record)
    if corrupted:
        raise ModelLoadError(_refusal(snapshot, {link: blob for link, blob in files.items() if blob in corrupted}))


def _repository(snapshot: Path) -> Path:
    return snapshot.parent.parent


def _large_files(snapshot: Path, patterns: list[str]) -> dict[Path, Path]:
    """Give blobs by the links to them."""
    links = (path for path in sorted(snapshot.rglob("*")) if path.is_symlink() and any(map(path.match, patterns)))
    # One hop only: a blob may itself be a link into a store that several models share, where names are other hashes.
    blobs = {link: Path(os.path.normpath(link.parent / link.readlink())) for link in links}
    return {link: blob for link, blob in blobs.items() if _SHA256.fullmatch(blob.name) and blob.is_file()}


def _stamp(blob: Path) -> list[int]:
    stat = blob.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _refusal(snapshot: Path, corrupted: dict[Path, Path]) -> str:
    names = ", ".join(str(link.relative_to(snapshot)) for link in corrupted)
    message = f"{names} in {snapshot} is not what the Hub announced (its sha256 differs): the download was corrupted. "
    try:
        for link, blob in corrupted.items():
            _remove(link, blob)
    except OSError as error:
        blobs = ", ".join(map(str, corrupted.values()))
        return f"{message}It could not be removed ({error}): delete {blobs} and try again, which downloads it anew."
    return f"{message}It was removed from the cache: try again, which downloads it anew."


def _remove(link: Path, blob: Path) -> None:
    content = blob.resolve()
    blob.unlink(missing_ok=True)
    link.unlink()
    # The content too, where models share it, or it would be linked again; but nothing outside the cache.
    if content.is_relative_to(blob.parents[2].resolve()):
        content.unlink(missing_ok=True)


def _read(snapshot: Path) -> dict[str, dict[str, Any]]:
    record: Any = None
    with suppress(OSError, ValueError):  # without a record, or with a broken one, everything is checked again
        record = json.loads((_repository(snapshot) / RECORD).read_text(encoding="utf-8"))
    parts = record if isinstance(record, dict) else {}
    return {name: part if isinstance(part := parts.get(name), dict) else {} for name in ("files", "whole")}


def _write(snapshot: Path, record: dict[str, dict[str, Any]]) -> None:
    path = _repository(snapshot) / RECORD
    temporary = path.with_name(f"{RECORD}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(path)  # in one step: another process never reads half a record
    except OSError as error:
        # A cache may be read-only: it is used all the same, and checked again the next time.
        logger.info("what was checked cannot be remembered in %s: %s", path, error)
        with suppress(OSError):
            temporary.unlink()
