"""Model name to local folder: the Hugging Face cache, offline use, revisions, progress."""

from pathlib import Path

from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.model_files import ModelFiles
from mlx_qwen_embeddings.registry import ModelSpec

PATTERNS = ["*.json", "*.safetensors", "*.jinja", "1_Pooling/*.json"]
"""What is downloaded: never a pickle, never code."""


def open_folder(
    spec: ModelSpec, *, revision: str | None = None, offline: bool = False, cache_dir: Path | None = None
) -> ModelFiles:
    """Give the model's folder, downloaded if need be.

    What is in the cache is used without asking the Hub.

    Args:
        spec: What to open.
        revision: Branch, tag or commit; None is the main branch.
        offline: Whether to use only what is on disk.
        cache_dir: Where downloads lie; None is the Hugging Face cache.

    Raises:
        ModelLoadError: When it cannot be had; the message says what failed, where was looked, and what to do.
    """
    if spec.local:
        return _local(Path(spec.source), revision)
    found = _cached(spec, revision, cache_dir)
    if found is None:
        found = _download(spec, revision, cache_dir, offline=offline)
    return ModelFiles(found, revision=found.name)


def _local(path: Path, revision: str | None) -> ModelFiles:
    if revision is not None:
        message = f"revision={revision!r} makes no sense for the local folder {path}: leave it out"
        raise ModelLoadError(message)
    if not path.is_dir():
        message = f"{path} is not a folder: give the folder that holds config.json"
        raise ModelLoadError(message)
    return ModelFiles(path)


def _cached(spec: ModelSpec, revision: str | None, cache_dir: Path | None) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415 - as above

    try:
        folder = snapshot_download(
            spec.source, revision=revision, cache_dir=cache_dir, allow_patterns=PATTERNS, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder) if _is_whole(Path(folder)) else None


def _is_whole(folder: Path) -> bool:
    # A snapshot may have been begun by another program that wanted its configuration only.
    if not (folder / "config.json").exists() or not (folder / "tokenizer.json").exists():
        return False
    index = ModelFiles(folder).json("model.safetensors.index.json")
    shards = set(index.get("weight_map", {}).values())
    return all((folder / shard).exists() for shard in shards) if shards else any(folder.glob("*.safetensors"))


def _download(spec: ModelSpec, revision: str | None, cache_dir: Path | None, *, offline: bool) -> Path:
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415 - 50 ms that a local model need not pay
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # noqa: PLC0415 - as above

    looked = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{spec.source.replace('/', '--')}"
    if offline or constants.HF_HUB_OFFLINE:
        message = f"{spec.source} is not (wholly) in the cache and offline mode is on; looked in {looked}. {_REMEDY}"
        raise ModelLoadError(message)
    try:
        return Path(snapshot_download(spec.source, revision=revision, cache_dir=cache_dir, allow_patterns=PATTERNS))
    except HfHubHTTPError as error:
        raise ModelLoadError(_refusal(spec, revision, error)) from error
    except HFValidationError as error:
        message = f"{spec.source!r} is no Hub name: {error}"
        raise ModelLoadError(message) from error
    except (OSError, RuntimeError, HTTPError) as error:
        message = f"{spec.source} could not be downloaded ({_short(error)}) and is not in the cache; looked in {looked}. {_REMEDY}"
        raise ModelLoadError(message) from error


_REMEDY = "Connect and try again, copy the model's folder here and give its path, or start with the embedded model: 'nano'."


def _refusal(spec: ModelSpec, revision: str | None, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reasons: dict[int | None, str] = {
        401: "it does not exist, or is private: check the name, or log in with `hf auth login`",
        403: "access is not granted: accept the model's terms on its page and log in with `hf auth login`",
        404: f"there is no such model, or no revision {revision or 'main'!r} of it: check both",
    }
    return f"the Hub refused {spec.source} (status {status}): {reasons.get(status, _short(error))}"


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
