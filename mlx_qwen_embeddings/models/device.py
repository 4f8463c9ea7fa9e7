"""Which route an operation takes: MLX's own kernels, or the ones that are cheap on the CPU."""

import mlx.core as mx


def on_gpu() -> bool:
    """Tell whether the calling thread computes on a GPU."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)


def by_hand(x: mx.array) -> bool:
    """Tell whether the cheap routes of the CPU fit: float32, and no GPU."""
    return bool(x.dtype == mx.float32) and not on_gpu()
