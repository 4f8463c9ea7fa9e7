"""The values of a GGUF header, read with every length held against the bytes that are left."""

import mmap
import struct
from typing import Any

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""struct's letter by the number of the type."""

_STRING, _ARRAY = 8, 9


class Cursor:
    """A place in the header, moved on by every read.

    Every method raises ``ValueError`` when the file has fewer bytes than what is read asks for.
    """

    def __init__(self, data: mmap.mmap) -> None:
        """Begin at the file's first byte."""
        self._data = data
        self.position = 0
        self.size = len(data)

    def take(self, count: int, what: str) -> bytes:
        """Give the next ``count`` bytes."""
        end = self.position + count
        if end > self.size:
            raise ValueError(f"{what} of {count} bytes at byte {self.position} of a file of {self.size}")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def number(self, letter: str) -> Any:
        """Give one number, by struct's letter."""
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter), "a number"))[0]

    def count(self, *, minimum_bytes: int, what: str) -> int:
        """Give a count of things that take at least so many bytes each."""
        count = int(self.number("Q"))
        if count * minimum_bytes > self.size - self.position:
            raise ValueError(f"it claims {count} {what}, more than a file of {self.size} bytes can hold")
        return count

    def string(self, *, limit: int | None = None) -> str:
        """Give one string; ``limit`` is its most bytes, None has no limit but the file's end."""
        length = self.count(minimum_bytes=1, what="characters")
        if limit is not None and length > limit:
            raise ValueError(f"a name of {length} bytes")
        return self.take(length, "a string").decode("utf-8")

    def value(self) -> Any:
        """Give one value with its type in front."""
        kind = self.number("I")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ValueError(f"unknown type {kind} of a value")
        return self.number(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind = self.number("I")
        if kind == _STRING:
            return [self.string() for _ in range(self.count(minimum_bytes=8, what="strings"))]
        if kind not in _SCALARS:
            raise ValueError(f"an array of type {kind}, which no model of ours has")
        letter = _SCALARS[kind]
        width = struct.calcsize("<" + letter)
        count = self.count(minimum_bytes=width, what="numbers")
        return list(struct.unpack(f"<{count}{letter}", self.take(count * width, "an array")))
