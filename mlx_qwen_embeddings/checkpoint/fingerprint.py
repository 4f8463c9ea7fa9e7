"""Compute the fingerprint of a model: a hash of all content that its vectors depend on."""

import hashlib
import json
from functools import cache
from pathlib import Path

from mlx_qwen_embeddings._files import file_digest
from mlx_qwen_embeddings.checkpoint.files import ModelFiles, is_inside
from mlx_qwen_embeddings.registry import NANO_FOLDER

WHOLE_BYTES = 64 * 2**20
"""Files up to this size are hashed as a whole, which takes a tenth of a second."""

_SAMPLE_BYTES, _SAMPLES = 2**16, 256
_SUFFIXES = {".json", ".safetensors", ".jinja", ".gguf"}


def fingerprint(files: ModelFiles) -> str:
    """Return the hash of all that shapes a vector: configuration, tokenizer, pooling, prompts, weights.

    Prompts from the registry count too. Reading 16 GB would take longer than loading them, so a large file counts with its
    size, the time of its last change, and 256 samples spread over it. A snapshot from the Hub counts with its commit, which
    is a hash of the content already.
    """
    state = hashlib.blake2b(digest_size=16)
    if files.known_prompts:
        state.update(json.dumps(files.prompts, sort_keys=True).encode())
    if files.revision is not None:
        state.update(f"{files.path.parent.parent.name}@{files.revision}".encode())
        state.update(files.gguf.name.encode() if files.gguf else b"")
        return state.hexdigest()
    # A GGUF may lie among the files of other models.
    found = [files.gguf, *files.path.glob("*.json")] if files.gguf else files.path.rglob("*")
    for path in sorted(found):
        inside = path == files.gguf or is_inside(files.path, path)  # the rest is not part of the model, and never read
        if path.suffix in _SUFFIXES and path.is_file() and inside:
            state.update(f"{path.relative_to(files.path)}\\0{path.stat().st_size}\\0".encode())
            state.update(_content(path))
    return state.hexdigest()


@cache
def nano_fingerprint() -> str:
    """Return the fingerprint of the model inside the package, which does not change while a process runs."""
    return fingerprint(ModelFiles(NANO_FOLDER))


def _content(path: Path) -> bytes:
    stat = path.stat()
    if stat.st_size <= WHOLE_BYTES:
        return bytes.fromhex(file_digest(path))
    state = hashlib.blake2b(str(stat.st_mtime_ns).encode(), digest_size=16)
    with path.open("rb") as file:
        for sample in range(_SAMPLES):
            file.seek(sample * (stat.st_size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            state.update(file.read(_SAMPLE_BYTES))
    return state.digest()
