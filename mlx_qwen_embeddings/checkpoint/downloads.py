"""Which models lie in the Hugging Face cache, how large they are there and in memory, and how they go."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings.checkpoint.hub import cache_state
from mlx_qwen_embeddings.registry import ModelSpec

_BYTES_A_WEIGHT = {
    "4-bit DWQ": 0.5625,
    "8- and 5-bit": 0.833,
    "8-bit": 1.0625,
    "mxfp8": 1.03,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp32": 4.0,
}


@dataclass(frozen=True, slots=True)
class Download:
    """A repository in the cache.

    Attributes:
        path: Its folder.
        size: On disk, in bytes; files that revisions share count once.
        revisions: Commits that are there.
    """

    path: Path
    size: int
    revisions: tuple[str, ...]


def downloads(cache_dir: Path | None = None) -> dict[str, Download]:
    """Give every model of the cache by its Hub name.

    Args:
        cache_dir: The cache; None is the Hugging Face cache.
    """
    info = _scan(cache_dir)
    return {
        repo.repo_id: Download(
            Path(repo.repo_path), repo.size_on_disk, tuple(sorted(revision.commit_hash for revision in repo.revisions))
        )
        for repo in (info.repos if info else ())
        if repo.repo_type == "model"
    }


def remove(name: str, cache_dir: Path | None = None) -> int:
    """Delete a model from the cache, all revisions of it; give the bytes that are free again.

    Args:
        name: Its Hub name.
        cache_dir: The cache; None is the Hugging Face cache.

    Raises:
        FileNotFoundError: When it is not there.
    """
    found = downloads(cache_dir).get(name)
    info = _scan(cache_dir)
    if found is None or info is None:
        folder, _ = cache_state(cache_dir, offline=True)
        message = f"{name} is not in {folder}: there is nothing to remove"
        raise FileNotFoundError(message)
    strategy = info.delete_revisions(*found.revisions)
    strategy.execute()
    return int(strategy.expected_freed_size)


def _scan(cache_dir: Path | None) -> Any:
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - 50 ms that not every command need pay
    from huggingface_hub.errors import CacheNotFound  # noqa: PLC0415 - as above

    folder, _ = cache_state(cache_dir, offline=True)
    try:
        return scan_cache_dir(folder)
    except CacheNotFound:
        return None


def memory_estimate(spec: ModelSpec, device: str) -> int | None:
    """Estimate what a model's weights take in memory, in bytes; None when the registry does not say how large it is.

    A CPU computes with float32. A GPU keeps packed weights packed, and the others as bfloat16.

    Args:
        spec: A row of the registry.
        device: "cpu" or "gpu".
    """
    each = _BYTES_A_WEIGHT.get(spec.weights)
    stored = stored_bytes(spec)
    if each is None or not stored:
        return None
    weights = stored / each
    return round(weights * (4 if device == "cpu" else min(each, 2)))


def stored_bytes(spec: ModelSpec) -> int | None:
    """Give the size of a model's weights as they are stored, in bytes; None when the registry does not say."""
    if not spec.local:
        return spec.download_bytes
    path = Path(spec.source)
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)
