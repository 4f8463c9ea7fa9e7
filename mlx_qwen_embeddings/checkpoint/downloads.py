"""List and delete the models in the Hugging Face cache, and estimate what a model takes on disk and in memory."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlx_qwen_embeddings.checkpoint.hub import cache_state
from mlx_qwen_embeddings.registry import ModelSpec

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

_BYTES_EACH = {"4-bit DWQ": 0.5625, "8- and 5-bit": 0.833, "8-bit": 1.0625, "mxfp8": 1.03, "bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes per weight by the registry's name for the kind of weights; packed ones include their scales."""


def downloads(cache_dir: Path | None = None) -> "dict[str, CachedRepoInfo]":
    """Return what ``huggingface_hub`` knows about every model in the cache, by its Hub name.

    Args:
        cache_dir: The cache; None is the Hugging Face cache.
    """
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - 50 ms that not every command need pay

    folder, _ = cache_state(cache_dir, offline=True)
    repositories = scan_cache_dir(folder).repos if folder.exists() else ()
    return {repository.repo_id: repository for repository in repositories if repository.repo_type == "model"}


def remove(name: str, cache_dir: Path | None = None) -> int:
    """Delete all revisions of a model from the cache, and return the number of bytes freed.

    Args:
        name: Its Hub name.
        cache_dir: The cache; None is the Hugging Face cache.

    Raises:
        FileNotFoundError: When it is not there.
    """
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - as above

    folder, _ = cache_state(cache_dir, offline=True)
    found = downloads(cache_dir).get(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not in {folder}: there is nothing to remove")
    strategy = scan_cache_dir(folder).delete_revisions(*(revision.commit_hash for revision in found.revisions))
    strategy.execute()
    return int(strategy.expected_freed_size)


def memory_estimate(spec: ModelSpec, device: str) -> int | None:
    """Return about how many bytes a model's weights take in memory; None when the registry does not know its size.

    A CPU computes in float32. A GPU keeps packed weights packed, and the others in bfloat16.

    Args:
        spec: The model.
        device: "cpu" or "gpu".
    """
    stored_each, stored = _BYTES_EACH.get(spec.weights), stored_bytes(spec)
    if stored_each is None or not stored:
        return None
    return round(stored / stored_each * (4 if device == "cpu" else min(stored_each, 2)))


def stored_bytes(spec: ModelSpec) -> int | None:
    """Return the size of a model's weights on disk, in bytes; None when the registry does not know it."""
    if not spec.local:
        return spec.download_bytes
    path = Path(spec.source)
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)
