"""Independent references in numpy: Qwen3 in float64, and the number formats of MLX's quantised weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def qwen3(weights: Mapping[str, NDArray[Any]], config: Mapping[str, Any], ids: Sequence[int]) -> Array:
    """Return the hidden states of one text, shape (tokens, hidden), one head at a time; arXiv:2505.09388."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    eps = config["rms_norm_eps"]
    x = w["embed_tokens.weight"][np.asarray(ids)]
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        x = x + _attention(w, config, at + "self_attn.", _norm(x, w[at + "input_layernorm.weight"], eps))
        y = _norm(x, w[at + "post_attention_layernorm.weight"], eps)
        gate, up = y @ w[at + "mlp.gate_proj.weight"].T, y @ w[at + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj.weight"].T
    return _norm(x, w["norm.weight"], eps)


def _norm(x: Array, weight: Array, eps: float) -> Array:
    scaled: Array = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight
    return scaled


def _attention(w: Mapping[str, Array], config: Mapping[str, Any], at: str, x: Array) -> Array:
    def linear(name: str, value: Array) -> Array:
        return value @ w[f"{at}{name}.weight"].T + w.get(f"{at}{name}.bias", np.zeros(1))

    size, eps = config["head_dim"], config["rms_norm_eps"]
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    q, k, v = linear("q_proj", x), linear("k_proj", x), linear("v_proj", x)
    future = np.triu(np.full((len(x), len(x)), -np.inf), k=1)
    heads = []
    for head in range(config["num_attention_heads"]):
        own, shared = slice(head * size, (head + 1) * size), slice(head // group * size, (head // group + 1) * size)
        query = _rotate(_norm(q[:, own], w[at + "q_norm.weight"], eps), config["rope_theta"])
        key = _rotate(_norm(k[:, shared], w[at + "k_norm.weight"], eps), config["rope_theta"])
        scores = query @ key.T / np.sqrt(size) + future
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        heads.append(scores / scores.sum(axis=-1, keepdims=True) @ v[:, shared])
    return linear("o_proj", np.concatenate(heads, axis=-1))


def _rotate(x: Array, theta: float) -> Array:
    """Rotate coordinates i and i + d/2 together, as GPT-NeoX does (arXiv:2104.09864 pairs neighbours instead)."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
    left, right = x[:, :half], x[:, half:]
    return np.concatenate(
        [left * np.cos(angles) - right * np.sin(angles), right * np.cos(angles) + left * np.sin(angles)], axis=-1
    )


def pooled(hidden: Array, pooling: str) -> Array:
    """Return the unit vector of one text from its hidden states, shape (tokens, hidden)."""
    vector = {"last": hidden[-1], "first": hidden[0], "mean": hidden.mean(axis=0), "max": hidden.max(axis=0)}[pooling]
    return np.asarray(vector / np.linalg.norm(vector))


def unpack(packed: NDArray[np.uint32], scales: NDArray[Any], biases: NDArray[Any] | None, *, mode: str, bits: int) -> Array:
    """Unpack weights in MLX's packed format.

    A row is a stream of bits, lowest first. "affine" means ``scale * q + bias``. The other modes have the elements and
    scales of the OCP Microscaling Formats specification 1.0, and nvfp4 has E4M3 scales.
    """
    stream = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), axis=1, bitorder="little")
    codes = (stream.reshape(len(packed), -1, bits) << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint32)
    repeat = codes.shape[1] // scales.shape[1]
    if biases is not None:
        return np.asarray(codes * np.repeat(scales, repeat, axis=1) + np.repeat(biases, repeat, axis=1))
    elements = small_float(codes, exponent=4, mantissa=3) if mode == "mxfp8" else small_float(codes, exponent=2, mantissa=1)
    factors = small_float(scales, exponent=4, mantissa=3) if mode == "nvfp4" else 2.0 ** (scales.astype(np.float64) - 127)
    return elements * np.repeat(factors, repeat, axis=1)


def small_float(codes: NDArray[Any], *, exponent: int, mantissa: int) -> Array:
    """Decode a sign, ``exponent`` bits biased by half their range, and ``mantissa`` bits (E2M1, E4M3)."""
    codes = codes.astype(np.int64)
    sign = np.where(codes >> (exponent + mantissa) & 1, -1.0, 1.0)
    power, fraction = codes >> mantissa & (2**exponent - 1), (codes & (2**mantissa - 1)) / 2**mantissa
    bias = 2 ** (exponent - 1) - 1
    return np.asarray(sign * np.where(power == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (power - bias)))
