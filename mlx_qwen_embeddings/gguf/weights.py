"""The arrays of a GGUF file, as MLX reads them."""

from pathlib import Path
from typing import cast

import mlx.core as mx

from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.gguf.header import read_header
from mlx_qwen_embeddings.gguf.names import checkpoint_name


def read_weights(path: Path) -> dict[str, mx.array]:
    """Read all arrays by the checkpoint's names. MLX repacks Q4_0, Q4_1 and Q8_0 into its own form, in groups of 32.

    Raises:
        ModelLoadError: When the file is not what its header says.
    """
    read_header(path)
    try:
        arrays = cast("dict[str, mx.array]", mx.load(str(path)))
    except (RuntimeError, ValueError) as error:
        message = f"{path} cannot be read ({error}): download it again"
        raise ModelLoadError(message) from error
    return {checkpoint_name(name): value for name, value in arrays.items()}
