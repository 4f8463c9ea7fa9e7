"""Read and check the header of a GGUF file before MLX maps it: native code must not see a crafted or cut file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Little-endian: magic, version, counts, key-value pairs,
tensor descriptions, then the data at the next multiple of the alignment.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings.errors import ModelLoadError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Format characters of ``struct``, by GGUF's number of a type."""

_STRING, _ARRAY = 8, 9


class _Cursor:
    """A position in the header, moved by every read.

    Every method raises ``ValueError`` when it needs more bytes than the file has, so counts need no check of their own.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 0
        self.size = len(data)

    def take(self, count: int, what: str) -> bytes:
        """Return the next ``count`` bytes."""
        end = self.position + count
        if end > self.size:
            raise ValueError(f"{what} of {count} bytes at byte {self.position} of a file of {self.size}")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def numbers(self, letter: str, count: int) -> list[Any]:
        """Return numbers, by their format character."""
        data = self.take(count * struct.calcsize("<" + letter), "a value")
        return list(struct.unpack(f"<{count}{letter}", data))

    def number(self, letter: str) -> Any:
        """Return one number, by its format character."""
        return self.numbers(letter, 1)[0]

    def string(self) -> str:
        """Return one string."""
        return self.take(self.number("Q"), "a string").decode("utf-8")

    def value(self) -> Any:
        """Return one value, which is preceded by its type."""
        kind, count = self.number("I"), None
        if kind == _ARRAY:
            kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            return self.string() if count is None else [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"a value of type {kind}, which no served model has")
        return self.number(_SCALARS[kind]) if count is None else self.numbers(_SCALARS[kind], count)


_MAX_DIMENSIONS = 4
_VERSIONS = (2, 3)
"""Version 1 had 32-bit counts and was replaced in 2023."""

_BLOCKS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}
_BLOCKS |= {14: ("Q6_K", 256, 210), 30: ("BF16", 1, 2)}
"""Name, weights per block and bytes per block of the types that MLX reads correctly, by number."""

_OTHER = {6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 15: "Q8_K", 39: "MXFP4"}
_OTHER |= {16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS"}
_OTHER |= {24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """The description of a tensor.

    Attributes:
        kind: Name of its type: "Q8_0".
        shape: Slowest dimension first, as in numpy; the file has the opposite order.
    """

    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself.

    Attributes:
        path: The file.
        metadata: Key-value pairs; an array is a list.
        tensors: By llama.cpp's name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def architecture(self) -> str:
        """Name of the architecture, the prefix of the model's own keys: "qwen3"."""
        return str(self.metadata.get("general.architecture", ""))

    def own(self, key: str, default: Any = None) -> Any:
        """Return the value of a key of the architecture."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_header(path: Path) -> Header:
    """Read the header, and check every count, length and offset in it against the size of the file.

    Raises:
        ModelLoadError: When the file is not a GGUF, is cut short, or holds a type that is not read; the message names it.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, _Cursor(data))
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"{path} is no whole GGUF file ({error}): download it again") from error


def _parse(path: Path, cursor: _Cursor) -> Header:
    if bytes(cursor.take(4, "magic")) != b"GGUF":
        raise ValueError("it does not begin with 'GGUF'")
    version = cursor.number("I")
    if version not in _VERSIONS:
        raise ValueError(f"version {version}, or big-endian; read are the little-endian versions 2 and 3")
    tensors, pairs = cursor.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.string()
        if key in metadata:
            raise ValueError(f"the key {key!r} is there twice")
        metadata[key] = cursor.value()
    described = dict(_tensor(path, cursor) for _ in range(tensors))
    if len(described) != tensors:
        raise ValueError("two tensors have the same name")
    _check_spans(described, metadata.get("general.alignment", 32), cursor)
    return Header(path, metadata, {name: tensor for name, (tensor, _, _) in described.items()})


def _tensor(path: Path, cursor: _Cursor) -> tuple[str, tuple[Tensor, int, int]]:
    name = cursor.string()
    dimensions = cursor.number("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))
    kind, offset = cursor.number("I"), cursor.number("Q")
    if kind not in _BLOCKS:
        raise ModelLoadError(
            f"{path}: tensor {name!r} is of type {_OTHER.get(kind, kind)}, which MLX does not read correctly; it reads "
            f"{', '.join(known for known, _, _ in _BLOCKS.values())}: take the Q8_0 or F16 file of the same model"
        )
    label, weights, size = _BLOCKS[kind]
    # MLX keeps a dimension in 31 bits.
    if not all(0 < length < 2**31 for length in shape) or shape[0] % weights:
        raise ValueError(f"tensor {name!r} of type {label} cannot have the shape {shape[::-1]}")
    return name, (Tensor(label, shape[::-1]), offset, math.prod(shape) // weights * size)


def _check_spans(described: Mapping[str, tuple[Tensor, int, int]], alignment: Any, cursor: _Cursor) -> None:
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):  # noqa: PLR2004 - the format's least
        raise ValueError(f"general.alignment is {alignment!r}, no power of two from 8 up")
    start = -(-cursor.position // alignment) * alignment
    for name, (_, offset, size) in described.items():
        if offset % alignment:
            raise ValueError(f"tensor {name!r} begins at {offset}, no multiple of the alignment {alignment}")
        end = start + offset + size
        if end > cursor.size:
            raise ValueError(f"tensor {name!r} ends at byte {end} of a file of {cursor.size}: it is cut short")
