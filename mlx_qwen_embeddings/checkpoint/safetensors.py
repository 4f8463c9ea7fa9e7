"""Check the layout of a safetensors file before MLX maps it: native code must not see a crafted or cut file.

Format: https://github.com/huggingface/safetensors#format: 8 bytes of header length, a JSON header, then the data, in which
tensors follow one another without a gap.
"""

import json
import math
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings.errors import ModelLoadError

MAX_HEADER_BYTES = 100_000_000
"""The limit of the reference implementation."""

_BITS = dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8)
_BITS |= dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
_BITS |= dict.fromkeys(("U32", "I32", "F32"), 32) | dict.fromkeys(("U64", "I64", "F64"), 64)


def check_safetensors(path: Path) -> None:
    """Check the header against the size of the file.

    Raises:
        ModelLoadError: When the file is cut short, or its header does not describe it.
    """
    try:
        header, data_bytes = read_header(path)
        spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, OSError, TypeError, KeyError, RecursionError) as error:
        raise ModelLoadError(f"{path} is no whole safetensors file ({error}): download it again") from error
    position = 0
    for start, end, name in spans:
        if start != position:
            raise ModelLoadError(f"{path} is no valid safetensors file: tensor {name!r} starts at {start}, not {position}")
        position = end
    if position != data_bytes:
        raise ModelLoadError(
            f"{path} is {'cut short' if data_bytes < position else 'too long'}: its tensors need {position} bytes, it has "
            f"{data_bytes}: download it again"
        )


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, by name of tensor, and the number of bytes that follow it.

    Raises:
        ValueError: When there is no header, or it is longer than the file.
        TypeError: When it is not a JSON object.
        OSError: When the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):  # noqa: PLR2004 - "{}" is the shortest header
            raise ValueError(f"its header claims {length} bytes of a file of {size}")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise TypeError("its header is no JSON object")
    return header, size - 8 - length


def _span(name: str, entry: dict[str, Any]) -> tuple[int, int, str]:
    (start, end), shape = entry["data_offsets"], entry["shape"]
    if any(not isinstance(number, int) or number < 0 for number in (start, end, *shape)):
        raise ValueError(f"tensor {name!r} has an offset or a shape that is no natural number")
    bits = _BITS.get(entry["dtype"])
    if bits is not None and (end - start) * 8 != bits * math.prod(shape):
        raise ValueError(f"tensor {name!r} of shape {shape} and type {entry['dtype']} cannot take {end - start} bytes")
    if end < start:
        raise ValueError(f"tensor {name!r} ends before it starts")
    return start, end, name
