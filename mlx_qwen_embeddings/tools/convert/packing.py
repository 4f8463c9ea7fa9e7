"""How a conversion packs weights: the modes that MLX has, and the choice among them."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError

BITS_AND_GROUPS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((2, 3, 4, 5, 6, 8), (64, 32, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
"""Bits per weight and group sizes, the default first, of each mode of ``mlx.core.quantize``:
https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html."""

DTYPES = ("float32", "bfloat16", "float16")
"""Types of weights that are not packed."""


class ConversionError(MLXQwenEmbeddingsError, ValueError):
    """A conversion that cannot be done as asked."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How the matrices of a model are packed.

    Attributes:
        bits: Bits per weight.
        group_size: Number of weights that share a scale.
        mode: A key of ``BITS_AND_GROUPS``.
    """

    bits: int
    group_size: int
    mode: str

    def __str__(self) -> str:
        return f"{self.bits} bits, groups of {self.group_size}, {self.mode}"


def choose_packing(bits: int | None, group_size: int | None, mode: str | None) -> Packing | None:
    """Fill in what was not given to ``convert``; return None if nothing is to be packed.

    Raises:
        ConversionError: If MLX has no such combination; the message lists the choices.
    """
    if bits is None and group_size is None and mode is None:
        return None
    mode = mode or "affine"
    check_one_of("--mode", mode, BITS_AND_GROUPS)
    widths, groups = BITS_AND_GROUPS[mode]
    if bits is None and len(widths) > 1:
        raise ConversionError(f"--bits is needed: it is one of {_listed(widths)}")
    chosen = Packing(widths[0] if bits is None else bits, groups[0] if group_size is None else group_size, mode)
    for flag, value, allowed in (("--bits", chosen.bits, widths), ("--group-size", chosen.group_size, sorted(groups))):
        if value not in allowed:
            raise ConversionError(f"{flag} {value} is not possible in mode {mode!r}: it is one of {_listed(allowed)}")
    return chosen


def check_one_of(flag: str, value: str, allowed: Iterable[str]) -> None:
    """Raise a ``ConversionError`` that lists the choices if the value is not one of them."""
    if value not in allowed:
        raise ConversionError(f"{flag} is one of {_listed(allowed)}, not {value!r}")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
