"""Look through the weights as they are stored for NaN, infinity and overflow, without loading the model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_qwen_embeddings.checkpoint.safetensors import read_header

CHUNK = 2**24
"""Elements looked at in one go, so that a file larger than memory can be read."""


@dataclass(frozen=True, slots=True)
class _Format:
    """How a floating-point number is stored: an all-ones exponent is infinity or, with a fraction, NaN."""

    integer: str
    exponent: int
    largest: int
    sign: int


_FORMATS = {
    "F16": _Format("<u2", 0x7C00, 0x7BFF, 0x8000),
    "BF16": _Format("<u2", 0x7F80, 0x7F7F, 0x8000),
    "F32": _Format("<u4", 0x7F80_0000, 0x7F7F_FFFF, 0x8000_0000),
}


@dataclass(frozen=True, slots=True)
class Flaw:
    """A tensor that no right checkpoint holds.

    Attributes:
        tensor: Its name in the file.
        stored_as: Its type in the file, such as "F16".
        values: "NaN", "infinity" or "its type's largest number", where a cast was clamped.
    """

    tensor: str
    stored_as: str
    values: str

    @property
    def overflowed(self) -> bool:
        """Whether a cast to float16 did it."""
        return self.stored_as == "F16" and self.values != "NaN"


def flaws(path: Path) -> Iterator[Flaw]:
    """Give every flawed tensor of a safetensors file.

    Raises:
        ValueError: When the file has no readable header.
        OSError: When it cannot be read.
    """
    header, data_bytes = read_header(path)
    start = path.stat().st_size - data_bytes
    for name, entry in header.items():
        form = _FORMATS.get(entry.get("dtype", ""))
        if form is not None:
            begin, end = entry["data_offsets"]
            values = _worst(path, start + begin, end - begin, form)
            if values:
                yield Flaw(name, entry["dtype"], values)


def _worst(path: Path, offset: int, size: int, form: _Format) -> str:
    kind = np.dtype(form.integer)
    worst = ""
    for begin in range(0, size // kind.itemsize, CHUNK):
        count = min(CHUNK, size // kind.itemsize - begin)
        bits = np.fromfile(path, kind, count, offset=offset + begin * kind.itemsize)
        highest = int((bits & (form.sign - 1)).max(initial=0))
        if highest > form.exponent:
            return "NaN"
        if highest == form.exponent:
            worst = "infinity"
        elif highest == form.largest and not worst:
            worst = "its type's largest number"
    return worst
