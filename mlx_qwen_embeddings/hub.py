"""Model name to local folder: the Hugging Face cache, offline use, revisions, progress."""

import logging
import os
from pathlib import Path

from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.gguf.choice import local_file
from mlx_qwen_embeddings.hub_integrity import is_known_whole, refuse_corrupted, remember_whole
from mlx_qwen_embeddings.model_files import ModelFiles
from mlx_qwen_embeddings.registry import ModelSpec

PATTERNS = ["*.json", "*.safetensors", "*.jinja", "1_Pooling/*.json"]
"""What is downloaded: never a pickle, never code."""

ATTEMPTS = 3
"""How often a broken download is begun: huggingface_hub goes on after a connection that ended, not after a reset one."""

_ANSWER_SECONDS = 10.0

logger = logging.getLogger(__name__)


def open_folder(
    spec: ModelSpec, *, revision: str | None = None, offline: bool = False, cache_dir: Path | None = None
) -> ModelFiles:
    """Give the model's folder, downloaded with a progress bar if need be.

    What is in the cache is used without asking the Hub. Large files are compared with their sha256 when they are first
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
    folder = _cached(spec, revision, cache_dir)
    if folder is None or not is_known_whole(folder, PATTERNS):
        folder = _completed(spec, revision, cache_dir, folder, offline=offline)
    refuse_corrupted(folder, PATTERNS)
    return ModelFiles(folder, revision=folder.name)


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


def _cached(spec: ModelSpec, revision: str | None, cache_dir: Path | None) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415 - as above

    try:
        folder = snapshot_download(
            spec.source, revision=revision, cache_dir=cache_dir, allow_patterns=PATTERNS, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        message = f"{spec.source!r} is no Hub name: {error}"
        raise ModelLoadError(message) from error
    return Path(folder) if _can_load(Path(folder)) else None


def _can_load(folder: Path) -> bool:
    # A snapshot may have been begun by another program that wanted its configuration only.
    if not (folder / "config.json").exists() or not (folder / "tokenizer.json").exists():
        return False
    index = ModelFiles(folder).json("model.safetensors.index.json")
    shards = set(index.get("weight_map", {}).values())
    return all((folder / shard).exists() for shard in shards) if shards else any(folder.glob("*.safetensors"))


def _completed(spec: ModelSpec, revision: str | None, cache_dir: Path | None, found: Path | None, *, offline: bool) -> Path:
    try:
        folder = _download(spec, revision, cache_dir, offline=offline)
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
    remember_whole(folder, PATTERNS)
    return folder


def _download(spec: ModelSpec, revision: str | None, cache_dir: Path | None, *, offline: bool) -> Path:
    from huggingface_hub import constants  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # noqa: PLC0415 - as above

    looked = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{spec.source.replace('/', '--')}"
    lacking = f"{spec.source} is not (wholly) in the cache (looked in {looked})"
    if offline or constants.HF_HUB_OFFLINE:
        message = f"{lacking} and offline mode is on. {_REMEDY}"
        raise ModelLoadError(message)
    try:
        return _fetch(spec, revision, cache_dir)
    except HfHubHTTPError as error:
        raise ModelLoadError(_refusal(spec, revision, error)) from error
    except (OSError, RuntimeError, HTTPError) as error:
        message = f"{lacking} and could not be downloaded: {_short(error)}. {_REMEDY}"
        raise ModelLoadError(message) from error


def _fetch(spec: ModelSpec, revision: str | None, cache_dir: Path | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # noqa: PLC0415 - as above

    # Read now: huggingface_hub looks at HF_ENDPOINT when it is imported, which another package may have done long ago.
    endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
    # Asked first, since snapshot_download hides most refusals behind "not found on the local disk".
    HfApi(endpoint=endpoint).model_info(spec.source, revision=revision, timeout=_ANSWER_SECONDS)
    attempt = 1
    while True:
        try:
            folder = snapshot_download(
                spec.source, revision=revision, cache_dir=cache_dir, allow_patterns=PATTERNS, endpoint=endpoint
            )
            return Path(folder)
        except HTTPError as error:
            if isinstance(error, HfHubHTTPError) or attempt == ATTEMPTS:
                raise
            logger.warning("downloading %s broke off (%s): trying again", spec.source, _short(error))
            attempt += 1


_REMEDY = "Connect and try again, copy the model's folder here and give its path, or start with the embedded model: 'nano'."


def _refusal(spec: ModelSpec, revision: str | None, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reasons: dict[int | None, str] = {
        401: "it does not exist, or is private: check the name, or log in with `hf auth login`",
        403: "access is not granted: accept the model's terms on its page and log in with `hf auth login`",
        404: f"there is no such model, or no revision {revision or 'main'!r} of it: check both",
        429: "too many requests: wait a few minutes, or log in with `hf auth login` for a higher limit",
    }
    reason = reasons.get(status, f"{_short(error)}. {_REMEDY}")
    return f"the Hub refused {spec.source} (status {status}): {reason}"


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
