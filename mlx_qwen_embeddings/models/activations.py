"""Activations by the route that is cheap on the CPU."""

import math

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray


def on_gpu() -> bool:
    """Tell whether the calling thread computes on a GPU."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)


def by_hand(x: mx.array) -> bool:
    """Tell whether the cheap routes of the CPU fit: float32, and no GPU."""
    return bool(x.dtype == mx.float32) and not on_gpu()


def settled(x: mx.array) -> mx.array:
    """Compute on the CPU what was built up to here, and give it.

    MLX lets ten tasks of ten operations each wait, counted over all streams. Two lanes that hand in a whole model fill
    that at once, and then a lane whose stream has run dry waits for a task of the other one: that left a fifth of two
    cores idle. A layer at a time never gets there: 64 queries on the 0.6B took 5.5 s instead of 6.8, 256 short texts on
    nano 282 ms instead of 354, and a single text as long as before.
    """
    if not on_gpu():
        mx.eval(x)
    return x


_TAIL: tuple[float, ...] = (
    2.93214612e-06,
    -1.67432672e-05,
    9.75642401e-05,
    1.11392737e-04,
    9.80608835e-04,
    8.59166868e-03,
    4.47887888e-02,
)
_TAIL += (9.97324969e-02, 1.0)
"""Coefficients of p in ``gelu``, that of the highest power first."""


def exp_in_place(x: mx.array) -> mx.array:
    """Give ``e ** x`` of a float32 array on the CPU that was computed for this alone, in its own memory.

    MLX takes 12 ns an element for it, and 4 for a power of two; numpy 0.6, with the processor's wide registers. With this
    and the softmax below 128 documents took all-MiniLM 3.7 s instead of 4.7, and nano 2.0 instead of 2.4.
    """
    mx.eval(x)
    seen = np.array(x, copy=False)
    with np.errstate(over="ignore"):
        np.exp(seen, out=seen)
    return x


def softmax_in_place(scores: mx.array, last: NDArray[np.float32] | None = None) -> mx.array:
    """Turn scores of the CPU, computed for this alone, into the numerators of their softmax, and give the denominators.

    MLX's ``softmax`` takes 12 ns an element there.

    Args:
        scores: Float32; shape (..., rows, keys).
        last: Added to the last of the keys first; shape (rows, at most keys).

    Returns:
        Sums of the numerators; shape (..., rows, 1).
    """
    mx.eval(scores)
    seen = np.array(scores, copy=False)
    if last is not None:
        seen[..., -last.shape[1] :] += last
    with np.errstate(invalid="ignore"):  # what is not finite here is refused at the end
        np.subtract(seen, seen.max(axis=-1, keepdims=True), out=seen)
        np.exp(seen, out=seen)
        return mx.array(seen.sum(axis=-1, keepdims=True))


def silu(x: mx.array) -> mx.array:
    """Give ``x * sigmoid(x)``; on the CPU MLX takes 16 ns an element for ``sigmoid``."""
    if not by_hand(x):
        return x * mx.sigmoid(x)
    return x / (1.0 + exp_in_place(-x))


def gelu(x: mx.array) -> mx.array:
    """Give ``x * Phi(x)``, with the normal distribution's Phi itself, arXiv:1606.08415.

    On the CPU MLX takes 28 ns an element for ``erf``, but 0.15 for a product or a sum, so the tail is a rational function,
    Phi(-a) = 1 / (2 p(a)^8) for a >= 0. It has the form of Abramowitz and Stegun 7.1.28, its coefficients fitted anew so
    that a * Phi(-a) is right to 5e-8 everywhere. With float32's rounding the result is closer to the exact one (1.6e-7)
    than by way of ``erf`` (4.7e-7).
    """
    if on_gpu():
        return x * (1.0 + mx.erf(x * math.sqrt(0.5))) * 0.5
    away = mx.abs(x)
    p = away * _TAIL[0] + _TAIL[1]
    for coefficient in _TAIL[2:]:
        p = p * away + coefficient
    for _ in range(3):
        p = p * p
    return mx.maximum(x, 0.0) - away * 0.5 / p


def gelu_tanh(x: mx.array) -> mx.array:
    """Give the approximation that arXiv:1606.08415 states with ``tanh``: ``x * sigmoid(2u)`` for its ``tanh(u)``."""
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    if not by_hand(x):
        return x * mx.sigmoid(2.0 * u)
    return x / (1.0 + exp_in_place(-2.0 * u))
