"""Hashes and sizes of files. What survives a power cut is tested where it is promised."""

import hashlib
from pathlib import Path

import pytest

from mlx_qwen_embeddings._files import file_digest, human_size


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (335_200_000, "335.2 MB"), (5.9e9, "5.9 GB"), (1e16, "10000.0 TB")],
)
def test_sizes_are_written_by_powers_of_a_thousand(count: float, words: str) -> None:
    assert human_size(count) == words


def test_a_digest_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content" * 100_000)
    assert file_digest(path) == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert file_digest(path, "sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
