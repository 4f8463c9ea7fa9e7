"""Which of several GGUF files is meant: they hold the same model, quantised in different ways."""

import re
from collections.abc import Iterable
from pathlib import Path

from mlx_qwen_embeddings.errors import ModelLoadError

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
