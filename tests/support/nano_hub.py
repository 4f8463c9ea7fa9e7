"""nano on a Hub on loopback, under the name that the alias "small" stands for, and its files in a cache."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen_embeddings.checkpoint.hub import open_folder
from mlx_qwen_embeddings.registry import NANO_FOLDER, resolve
from tests.support.fake_hub import FakeHub, etag

NAME = "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"
WEIGHTS = "model.safetensors"
MAIN, OLD = "a" * 40, "b" * 40
"""Commits: OLD has another prompt for queries."""

NANO = {str(path.relative_to(NANO_FOLDER)): path.read_bytes() for path in NANO_FOLDER.rglob("*") if path.is_file()}
READ = {path for path in NANO if path.endswith((".json", ".safetensors"))}
"""The files that are downloaded."""


class _NoWaiting:
    """Stands in for ``time`` in huggingface_hub, which waits between attempts."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """Return at once."""


def serve_nano(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serve until the generator is closed; the Hub's address is in the environment."""
    old = NANO | {"config_sentence_transformers.json": b'{"prompts": {"query": "old: "}}'}
    commits = {MAIN: NANO | {"pytorch_model.bin": b"pickle", "modeling.py": b"code"}, OLD: old}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.time", _NoWaiting)
    monkeypatch.setenv("HF_TOKEN", "hf_none")  # otherwise the home folder is searched for one
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub(NAME, commits, {"main": MAIN, "stable": MAIN, "v1": OLD}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def small(cache: Path, **options: Any) -> Path:
    """Open "small" and return its folder."""
    return open_folder(resolve("small"), cache_dir=cache, **options).path


def repository(cache: Path) -> Path:
    """Return the repository's folder in a cache."""
    return cache / f"models--{NAME.replace('/', '--')}"


def blob(cache: Path, path: str = WEIGHTS) -> Path:
    """Return the place of a file's content in a cache."""
    return repository(cache) / "blobs" / etag(path, NANO[path])
