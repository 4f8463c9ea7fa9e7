"""Model name to local folder: the Hugging Face cache, offline use, revisions, progress."""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.integrity import is_known_whole, refuse_corrupted, remember_whole
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.registry import ModelSpec

_SMALL = ["*.json", "*.jinja", "1_Pooling/*.json"]
PATTERNS = ["*.safetensors", *_SMALL]
"""What is downloaded: never a pickle, never code."""

ATTEMPTS = 3
"""How often a broken download is begun: huggingface_hub goes on after a connection that ended, not after a reset one."""

_ANSWER_SECONDS = 10.0
_HTTP_LIBRARIES = {"httpx", "httpx2", "requests"}  # what huggingface_hub 1, 2 and 0 are built on

logger = logging.getLogger(__name__)


class _Wanted(NamedTuple):
    """A repository, and what to take of it; ``tag`` as in ``gguf.choice.matching``, None where no GGUF is wanted."""

    source: str
    tag: str | None
    patterns: list[str]


def open_folder(
    spec: ModelSpec, *, revision: str | None = None, offline: bool = False, cache_dir: Path | None = None
) -> ModelFiles:
    """Give the model's folder, downloaded with a progress bar if need be.

    What is in the cache is used without asking the Hub. Of a repository whose name ends in GGUF one file is taken, which
    ``:Q8_0`` after the name picks when there are several. Large files are compared with their sha256 when they are first
    opened.

    Args:
        spec: What to open.
        revision: Branch, tag or commit; None is the main branch.
        offline: Whether to use only what is on disk.
        cache_dir: Where downloads lie; None is the Hugging Face cache.

    Raises:
        ModelLoadError: When it cannot be had, or was corrupted; the message says what failed, where was looked, and what
            to do.
    """
    if spec.local:
        return _local(Path(spec.source), revision)
    wanted = _wanted(spec)
    folder = _cached(wanted, revision, cache_dir)
    if folder is None or not is_known_whole(folder, wanted.patterns):
        folder = _completed(wanted, revision, cache_dir, folder, offline=offline)
    refuse_corrupted(folder, wanted.patterns)
    return _files(folder, wanted)


def find_folder(spec: ModelSpec, *, revision: str | None = None, cache_dir: Path | None = None) -> ModelFiles | None:
    """Give the model's folder as it is on disk, to read what its small files say.

    Nothing is downloaded, completed or compared, and the Hub is not asked: ``open_folder`` does so before weights are read.

    Args:
        spec: What to look for.
        revision: Branch, tag or commit; None is the main branch.
        cache_dir: Where downloads lie; None is the Hugging Face cache.

    Returns:
        None when it has yet to be downloaded.

    Raises:
        ModelLoadError: When the folder of the user's own is none, or the name means nothing to the Hub.
    """
    if spec.local:
        return _local(Path(spec.source), revision)
    wanted = _wanted(spec)
    folder = _cached(wanted, revision, cache_dir)
    return _files(folder, wanted) if folder else None


def _files(folder: Path, wanted: _Wanted) -> ModelFiles:
    gguf = None if wanted.tag is None else folder / _choose(_names(folder), wanted)
    return ModelFiles(folder, revision=folder.name, gguf=gguf)


def _wanted(spec: ModelSpec) -> _Wanted:
    source, _, tag = spec.source.partition(":")
    if tag or source.lower().endswith("gguf"):
        return _Wanted(source, tag, [*_SMALL, pattern(tag)])
    return _Wanted(source, None, PATTERNS)


def _choose(names: list[str], wanted: _Wanted) -> str:
    remedy = f"{wanted.source}:Q8_0 takes the one whose name ends so"
    return choose(names, wanted.tag or "", wanted.source, remedy)


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.gguf")]


def _local(path: Path, revision: str | None) -> ModelFiles:
    if revision is not None:
        message = f"revision={revision!r} makes no sense for the local folder {path}: leave it out"
        raise ModelLoadError(message)
    gguf = local_file(path)
    if gguf is not None:
        return ModelFiles(gguf.parent, gguf=gguf)
    if not path.is_dir():
        message = f"{path} is neither a folder nor a .gguf file: give the folder that holds config.json"
        raise ModelLoadError(message)
    return ModelFiles(path)


def _cached(wanted: _Wanted, revision: str | None, cache_dir: Path | None) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415 - as above

    try:
        folder = snapshot_download(
            wanted.source, revision=revision, cache_dir=cache_dir, allow_patterns=wanted.patterns, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        message = f"{wanted.source!r} is no Hub name: {error}"
        raise ModelLoadError(message) from error
    return Path(folder) if _can_load(Path(folder), wanted) else None


def _can_load(folder: Path, wanted: _Wanted) -> bool:
    if wanted.tag is not None:
        return bool(matching(_names(folder), wanted.tag))
    # A snapshot may have been begun by another program that wanted its configuration only.
    if not (folder / "config.json").exists() or not (folder / "tokenizer.json").exists():
        return False
    index = ModelFiles(folder).json("model.safetensors.index.json")
    shards = set(index.get("weight_map", {}).values())
    return all((folder / shard).exists() for shard in shards) if shards else any(folder.glob("*.safetensors"))


def _completed(wanted: _Wanted, revision: str | None, cache_dir: Path | None, found: Path | None, *, offline: bool) -> Path:
    try:
        folder = _download(wanted, revision, cache_dir, offline=offline)
    except ModelLoadError as error:
        if found is None:
            raise
        logger.warning(
            "%s was put into the cache by another program, maybe in part, and could not be completed: it is used as it is. "
            "Files that name the pooling or the prompts may be missing. (%s)",
            found,
            error,
        )
        return found
    remember_whole(folder, wanted.patterns)
    return folder


def _download(wanted: _Wanted, revision: str | None, cache_dir: Path | None, *, offline: bool) -> Path:
    from huggingface_hub import constants  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # noqa: PLC0415 - as above

    looked = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{wanted.source.replace('/', '--')}"
    lacking = f"{wanted.source} is not (wholly) in the cache (looked in {looked})"
    if offline or constants.HF_HUB_OFFLINE:
        message = f"{lacking} and offline mode is on. {_REMEDY}"
        raise ModelLoadError(message)
    try:
        return _fetch(wanted, revision, cache_dir)
    except HfHubHTTPError as error:
        raise ModelLoadError(_refusal(wanted, revision, error)) from error
    except (OSError, RuntimeError, HTTPError) as error:
        message = f"{lacking} and could not be downloaded: {_short(error)}. {_REMEDY}"
        raise ModelLoadError(message) from error


def _fetch(wanted: _Wanted, revision: str | None, cache_dir: Path | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import HTTPError  # noqa: PLC0415 - as above

    # Read now: huggingface_hub looks at HF_ENDPOINT when it is imported, which another package may have done long ago.
    endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
    # Asked first, since snapshot_download hides most refusals behind "not found on the local disk".
    info = HfApi(endpoint=endpoint).model_info(wanted.source, revision=revision, timeout=_ANSWER_SECONDS)
    names = [file.rfilename for file in info.siblings or ()]
    if wanted.tag is not None:
        _choose(names, wanted)
    elif names and not any(name.endswith(".safetensors") for name in names):
        raise ModelLoadError(_not_read(names, wanted.source))
    attempt = 1
    while True:
        try:
            folder = snapshot_download(
                wanted.source, revision=revision, cache_dir=cache_dir, allow_patterns=wanted.patterns, endpoint=endpoint
            )
            return Path(folder)
        except (OSError, HTTPError) as error:
            # A refusal is huggingface_hub's own error, a full disk Python's: neither goes away by trying again.
            if type(error).__module__.split(".")[0] not in _HTTP_LIBRARIES or attempt == ATTEMPTS:
                raise
            logger.warning("downloading %s broke off (%s): trying again", wanted.source, _short(error))
            attempt += 1


def _not_read(names: list[str], source: str) -> str:
    if matching(names, ""):
        return f"{source} has its weights as GGUF only: name one of its files, as {source}:Q8_0 does"
    pickle = next((name for name in sorted(names) if name.endswith((".bin", ".pt", ".pth"))), None)
    if pickle is None:
        return f"{source} has no *.safetensors, and no other weights that are read: check the name"
    return (
        f"{source} has its weights as a pickle only ({pickle}), which can run code and is never read: take a revision or a "
        f"copy of it with *.safetensors, or convert it with transformers: AutoModel.from_pretrained({source!r})"
        ".save_pretrained(new_folder, safe_serialization=True), put its tokenizer.json there too, and give that folder"
    )


_REMEDY = "Connect and try again, copy the model's folder here and give its path, or start with the embedded model: 'nano'."


def _refusal(wanted: _Wanted, revision: str | None, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reasons: dict[int | None, str] = {
        401: "it does not exist, or is private: check the name, or log in with `hf auth login`",
        403: "access is not granted: accept the model's terms on its page and log in with `hf auth login`",
        404: f"there is no such model, or no revision {revision or 'main'!r} of it: check both",
        429: "too many requests: wait a few minutes, or log in with `hf auth login` for a higher limit",
    }
    reason = reasons.get(status, f"{_short(error)}. {_REMEDY}")
    return f"the Hub refused {wanted.source} (status {status}): {reason}"


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def cache_state(cache_dir: Path | None, *, offline: bool) -> tuple[Path, bool]:
    """Give the folder of downloaded models, and whether only what is there is used."""
    from huggingface_hub import constants  # noqa: PLC0415 - 50 ms that a local model need not pay

    return Path(cache_dir or constants.HF_HUB_CACHE), bool(offline or constants.HF_HUB_OFFLINE)


SUFFIX = ".gguf"


def matching(names: Iterable[str], tag: str) -> list[str]:
    """Give the GGUF files whose name ends in ``tag``, as llama.cpp and Ollama write it: "Q8_0", "f16"; "" takes all."""
    wanted = re.compile(rf".*[-._/]{re.escape(tag)}\.gguf" if tag else r".*\.gguf", re.IGNORECASE)
    return sorted(name for name in names if wanted.fullmatch(name) and "mmproj" not in name)


def pattern(tag: str) -> str:
    """Give the shell pattern for ``matching``: of a file in a folder, or with more of a name in front of the tag."""
    letters = (f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() else letter for letter in tag)
    return f"*[-._/]{''.join(letters)}.gguf" if tag else "*.gguf"


def choose(names: Iterable[str], tag: str, where: str, remedy: str) -> str:
    """Give the one file that is meant.

    Args:
        names: All files of the folder.
        tag: See ``matching``.
        where: The folder, for the message.
        remedy: How to say which one, for the message; "{}" stands for an example.

    Raises:
        ModelLoadError: When it is none, or more than one; the message lists them.
    """
    all_names = list(names)
    found = matching(all_names, tag)
    if len(found) == 1:
        return found[0]
    there = found or matching(all_names, "")
    if not there:
        message = f"{where} has no .gguf file"
        raise ModelLoadError(message)
    problem = f"has {len(found)} GGUF files" if found else f"has no GGUF file {tag!r}"
    message = f"{where} {problem}: {', '.join(there)}. Say which one: {remedy.format(there[0])}"
    raise ModelLoadError(message)


def local_file(path: Path) -> Path | None:
    """Give the GGUF file that a path means: the file itself, or the only one of a folder that has no safetensors.

    Returns:
        None when the path means something else.

    Raises:
        ModelLoadError: When a folder has several; the message lists them.
    """
    if path.is_file():
        return path if path.suffix.lower() == SUFFIX else None
    names = [file.name for file in path.glob("*.gguf")]
    if not names or any(path.glob("*.safetensors")):
        return None
    return path / choose(names, "", str(path), f"give its path, {path}/{{}}")
