"""Find the folder of a model on this machine, or download it once from the Hugging Face Hub."""

import logging
import os
from collections.abc import Iterable
from fnmatch import filter as matching
from pathlib import Path
from typing import Any, NamedTuple

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.integrity import is_complete, mark_complete, refuse_corrupted
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.registry import ModelSpec

_SMALL_FILES = ("*.json", "*.jinja", "1_Pooling/*.json")
"""What is downloaded besides the weights: never a pickle, never code."""

ATTEMPTS = 3
"""How often a download is started: huggingface_hub resumes when a connection was closed, but not when it was reset."""

_ANSWER_SECONDS = 10.0
_HTTP_LIBRARIES = {"httpx", "httpx2", "requests"}  # what huggingface_hub 1, 2 and 0 are built on

_REMEDY = "Connect and try again, copy the model's folder here and give its path, or start with the embedded model: 'nano'."

logger = logging.getLogger(__name__)


class _Request(NamedTuple):
    """What to take from the Hub."""

    repository: str
    tag: str | None  # end of the name of the GGUF file to take, see ``_pattern``; None takes safetensors
    patterns: list[str]  # shell patterns of the files to take
    revision: str | None
    cache_dir: Path | None


def open_folder(
    spec: ModelSpec, *, revision: str | None = None, offline: bool = False, cache_dir: Path | None = None
) -> ModelFiles:
    """Return the model's folder, after downloading what is missing, with a progress bar.

    What is in the cache is used without asking the Hub. From a repository whose name ends in GGUF, one file is taken; when
    there are several, ``:Q8_0`` after the name picks one. Large files are compared with their sha256 once.

    Args:
        spec: The model.
        revision: Branch, tag or commit; None is the main branch.
        offline: Whether to use only what is on disk.
        cache_dir: Where downloads are kept; None is the Hugging Face cache.

    Raises:
        ModelLoadError: When the model cannot be found or downloaded, or is corrupted. The message says what failed, where
            it was looked for, and what to do.
    """
    if spec.local:
        return _local(Path(spec.source), revision)
    request = _request(spec, revision, cache_dir)
    folder = _cached(request)
    if folder is None or not is_complete(folder, request.patterns):
        try:
            folder = _download(request, offline=offline)
        except ModelLoadError as error:
            if folder is None:
                raise
            logger.warning(
                "%s was downloaded by another program, perhaps in part, and could not be completed: it is used as it is. "
                "Files that name the pooling or the prompts may be missing. (%s)",
                folder,
                error,
            )
        else:
            mark_complete(folder, request.patterns)
    refuse_corrupted(folder, request.patterns)
    return _files(folder, request)


def find_folder(spec: ModelSpec, *, revision: str | None = None, cache_dir: Path | None = None) -> ModelFiles | None:
    """Return the model's folder as it is on disk, to read its small files; None when it was not downloaded yet.

    Nothing is downloaded or checked: ``open_folder`` does so before weights are read. Arguments and errors are the same.
    """
    if spec.local:
        return _local(Path(spec.source), revision)
    request = _request(spec, revision, cache_dir)
    folder = _cached(request)
    return _files(folder, request) if folder else None


def cache_state(cache_dir: Path | None, *, offline: bool) -> tuple[Path, bool]:
    """Return the folder of downloaded models, and whether the Hub must not be asked for more."""
    from huggingface_hub import constants  # noqa: PLC0415 - 50 ms that a local model need not pay

    return Path(cache_dir or constants.HF_HUB_CACHE), bool(offline or constants.HF_HUB_OFFLINE)


def _local(path: Path, revision: str | None) -> ModelFiles:
    if revision is not None:
        raise ModelLoadError(f"revision={revision!r} makes no sense for the local folder {path}: leave it out")
    if path.is_file() and path.suffix.lower() == ".gguf":
        return ModelFiles(path.parent, gguf=path)
    if not path.is_dir():
        raise ModelLoadError(f"{path} is neither a folder nor a .gguf file: give the folder that holds config.json")
    names = sorted(file.name for file in path.glob("*.gguf"))
    if not names or any(path.glob("*.safetensors")):
        return ModelFiles(path)
    return ModelFiles(path, gguf=path / _choose(names, "", str(path), f"give its path, {path}/{names[0]}"))


def _request(spec: ModelSpec, revision: str | None, cache_dir: Path | None) -> _Request:
    repository, _, tag = spec.source.partition(":")
    if tag or repository.lower().endswith("gguf"):
        return _Request(repository, tag, [*_SMALL_FILES, _pattern(tag)], revision, cache_dir)
    return _Request(repository, None, ["*.safetensors", *_SMALL_FILES], revision, cache_dir)


def _files(folder: Path, request: _Request) -> ModelFiles:
    gguf = None if request.tag is None else folder / _choose(_gguf_names(folder), request.tag, request.repository)
    return ModelFiles(folder, revision=folder.name, gguf=gguf)


def _snapshot(request: _Request, **options: Any) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - 50 ms that a local model need not pay

    repository, _, patterns, revision, cache_dir = request
    return Path(snapshot_download(repository, revision=revision, cache_dir=cache_dir, allow_patterns=patterns, **options))


def _cached(request: _Request) -> Path | None:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415 - as above

    try:
        folder = _snapshot(request, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ModelLoadError(f"{request.repository!r} is no Hub name: {error}") from error
    return folder if _can_load(folder, request) else None


def _can_load(folder: Path, request: _Request) -> bool:
    if request.tag is not None:
        return bool(_matching(_gguf_names(folder), request.tag))
    # Another program may have downloaded the configuration only.
    if not (folder / "config.json").exists() or not (folder / "tokenizer.json").exists():
        return False
    shards = set(ModelFiles(folder).json("model.safetensors.index.json").get("weight_map", {}).values())
    return all((folder / shard).exists() for shard in shards) if shards else any(folder.glob("*.safetensors"))


def _download(request: _Request, *, offline: bool) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # noqa: PLC0415 - 50 ms that a local model need not pay

    cache, offline = cache_state(request.cache_dir, offline=offline)
    folder = cache / f"models--{request.repository.replace('/', '--')}"
    missing = f"{request.repository} is not completely in the cache (looked in {folder})"
    if offline:
        raise ModelLoadError(f"{missing} and offline mode is on. {_REMEDY}")
    try:
        return _fetch(request)
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reasons: dict[int | None, str] = {
            401: "it does not exist, or is private: check the name, or log in with `hf auth login`",
            403: "access is not granted: accept the model's terms on its page and log in with `hf auth login`",
            404: f"there is no such model, or no revision {request.revision or 'main'!r} of it: check both",
            429: "too many requests: wait a few minutes, or log in with `hf auth login` for a higher limit",
        }
        reason = reasons.get(status, f"{_first_line(error)}. {_REMEDY}")
        raise ModelLoadError(f"the Hub refused {request.repository} (status {status}): {reason}") from error
    except (OSError, RuntimeError, HTTPError) as error:
        raise ModelLoadError(f"{missing} and could not be downloaded: {_first_line(error)}. {_REMEDY}") from error


def _fetch(request: _Request) -> Path:
    from huggingface_hub import HfApi  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import HTTPError  # noqa: PLC0415 - as above

    # Read here: huggingface_hub reads HF_ENDPOINT once, when it is imported, which another package may have done earlier.
    endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
    # Asked first, because snapshot_download turns most refusals into "not found on the local disk".
    info = HfApi(endpoint=endpoint).model_info(request.repository, revision=request.revision, timeout=_ANSWER_SECONDS)
    names = [file.rfilename for file in info.siblings or ()]
    if request.tag is not None:
        _choose(names, request.tag, request.repository)
    elif names and not any(name.endswith(".safetensors") for name in names):
        raise ModelLoadError(_no_safetensors(names, request.repository))
    attempt = 1
    while True:
        try:
            return _snapshot(request, endpoint=endpoint)
        except (OSError, HTTPError) as error:
            # The Hub's refusals are huggingface_hub's own errors, a full disk is Python's: trying again helps neither.
            if type(error).__module__.split(".")[0] not in _HTTP_LIBRARIES or attempt == ATTEMPTS:
                raise
            logger.warning("the download of %s was interrupted (%s): trying again", request.repository, _first_line(error))
            attempt += 1


def _no_safetensors(names: list[str], repository: str) -> str:
    if _matching(names, ""):
        return f"{repository} has its weights as GGUF only: name one of its files, as {repository}:Q8_0 does"
    pickle = next((name for name in sorted(names) if name.endswith((".bin", ".pt", ".pth"))), None)
    if pickle is None:
        return f"{repository} has no *.safetensors, and no other weights that are read: check the name"
    return (
        f"{repository} has its weights as a pickle only ({pickle}), which can run code and is never read: take a revision "
        f"or copy with *.safetensors, or convert it with transformers: AutoModel.from_pretrained({repository!r})"
        ".save_pretrained(new_folder, safe_serialization=True), put its tokenizer.json there too, and give that folder"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _gguf_names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.gguf")]


def _matching(names: Iterable[str], tag: str) -> list[str]:
    """Return the GGUF files whose name ends in ``tag``; "" takes all."""
    return sorted(name for name in matching(names, _pattern(tag)) if "mmproj" not in name)


def _pattern(tag: str) -> str:
    """Return the shell pattern of a tag, in either case, as llama.cpp and Ollama write it: "Q8_0", "f16"."""
    letters = (f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() else letter for letter in tag)
    return f"*[-._/]{''.join(letters)}.gguf" if tag else "*.gguf"


def _choose(names: list[str], tag: str, where: str, remedy: str | None = None) -> str:
    """Return the one GGUF file that matches; raise ``ModelLoadError``, which lists them, when there are none or several."""
    found = _matching(names, tag)
    if len(found) == 1:
        return found[0]
    listed = found or _matching(names, "")
    if not listed:
        raise ModelLoadError(f"{where} has no .gguf file")
    problem = f"has {len(found)} GGUF files" if found else f"has no GGUF file {tag!r}"
    remedy = remedy or f"{where}:Q8_0 takes the one whose name ends in Q8_0"
    raise ModelLoadError(f"{where} {problem}: {', '.join(listed)}. Say which one: {remedy}")
