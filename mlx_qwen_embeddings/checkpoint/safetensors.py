"""Check the frame of a safetensors file before anything maps it: a crafted or cut file must not reach native code.

Format: https://github.com/huggingface/safetensors#format: 8 bytes of header length, a JSON header, then the data, whose
tensors follow one another without a gap.
"""

import json
import math
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings.errors import ModelLoadError

MAX_HEADER_BYTES = 100_000_000
"""The limit of the reference implementation."""

_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
}
_BITS |= {"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64}


def check_safetensors(path: Path) -> None:
    """Hold the header against the size of the file.

    Raises:
        ModelLoadError: When the file is cut short, or its header does not describe it.
    """
    try:
        header, data_bytes = read_header(path)
        spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, OSError, TypeError, KeyError, RecursionError) as error:
        message = f"{path} is no whole safetensors file ({error}): download it again"
        raise ModelLoadError(message) from error
    position = 0
    for start, end, name in spans:
        if start != position:
            message = f"{path} is no valid safetensors file: tensor {name!r} starts at {start}, not at {position}"
            raise ModelLoadError(message)
        position = end
    if position != data_bytes:
        message = (
            f"{path} is {'cut short' if data_bytes < position else 'too long'}: its tensors need {position} bytes, it has "
            f"{data_bytes}: download it again"
        )
        raise ModelLoadError(message)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Give the header, by name of tensor, and the number of bytes that follow it.

    Raises:
        ValueError: When there is none, or it is longer than the file.
        TypeError: When it is no JSON object.
        OSError: When the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):  # noqa: PLR2004 - "{}" is the shortest header
            message = f"its header claims {length} bytes of a file of {size}"
            raise ValueError(message)
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        message = "its header is no JSON object"
        raise TypeError(message)
    return header, size - 8 - length


def _span(name: str, entry: dict[str, Any]) -> tuple[int, int, str]:
    (start, end), shape = entry["data_offsets"], entry["shape"]
    if any(not isinstance(number, int) or number < 0 for number in (start, end, *shape)):
        message = f"tensor {name!r} has an offset or a shape that is no natural number"
        raise ValueError(message)
    bits = _BITS.get(entry["dtype"])
    if bits is not None and (end - start) * 8 != bits * math.prod(shape):
        message = f"tensor {name!r} of shape {shape} and type {entry['dtype']} cannot take {end - start} bytes"
        raise ValueError(message)
    if end < start:
        message = f"tensor {name!r} ends before it starts"
        raise ValueError(message)
    return start, end, name
