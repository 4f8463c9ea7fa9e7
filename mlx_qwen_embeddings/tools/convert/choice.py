"""What a user may ask of a conversion: which ways of packing there are, and how the rest is stored."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError


class ConversionError(MLXQwenEmbeddingsError, ValueError):
    """A conversion that cannot be done as asked."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A way of packing that MLX has.

    Attributes:
        bits: Widths of a weight.
        groups: Numbers of weights that may share a scale; the first is the default.
    """

    bits: tuple[int, ...]
    groups: tuple[int, ...]


MODES = {
    "affine": Mode((2, 3, 4, 5, 6, 8), (64, 32, 128)),
    "mxfp4": Mode((4,), (32,)),
    "mxfp8": Mode((8,), (32,)),
    "nvfp4": Mode((4,), (16,)),
}
"""By MLX's names: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html."""

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Choice:
    """How the matrices of a model are to be packed."""

    bits: int
    group_size: int
    mode: str

    def __str__(self) -> str:
        return f"{self.bits} bits, groups of {self.group_size}, {self.mode}"


def choose(bits: int | None, group_size: int | None, mode: str | None, dtype: str | None) -> Choice | None:
    """Complete what was asked for.

    Args:
        bits: Bits a weight; None where the mode has one width only, and where nothing is to be packed.
        group_size: Weights that share a scale; None takes the mode's default.
        mode: A key of ``MODES``; None is "affine".
        dtype: Type of what is not packed, checked only; None leaves it.

    Returns:
        None when nothing is to be packed.

    Raises:
        ConversionError: When there is no such combination; the message names those that there are.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConversionError(f"--dtype is one of {_either(DTYPES)}, not {dtype!r}")
    if mode is not None and mode not in MODES:
        raise ConversionError(f"--mode is one of {_either(MODES)}, not {mode!r}")
    if bits is None and group_size is None and mode is None:
        return None
    name = mode or "affine"
    known = MODES[name]
    if bits is None and len(known.bits) == 1:
        bits = known.bits[0]
    if bits not in known.bits:
        said = "is needed: it" if bits is None else f"{bits} is not possible in mode {name!r}: it"
        raise ConversionError(f"--bits {said} is one of {_either(known.bits)}")
    if group_size is None:
        group_size = known.groups[0]
    if group_size not in known.groups:
        allowed = _either(sorted(known.groups))
        raise ConversionError(f"--group-size {group_size} is not possible in mode {name!r}: it is one of {allowed}")
    return Choice(bits, group_size, name)


def _either(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
