"""Find the files that hold a model's weights and read them: safetensors and GGUF only, since a pickle can run code."""

from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.gguf.header import read_header as read_gguf_header
from mlx_qwen_embeddings.checkpoint.gguf.metadata import checkpoint_name
from mlx_qwen_embeddings.checkpoint.safetensors import check_safetensors, read_header
from mlx_qwen_embeddings.compute.mlx.backend import parent_computed
from mlx_qwen_embeddings.errors import ModelLoadError

INDEX = "model.safetensors.index.json"

_TYPES = {"BOOL": mx.bool_, "F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32, "F8_E4M3": mx.uint8}
_TYPES |= {"U8": mx.uint8, "U16": mx.uint16, "U32": mx.uint32, "U64": mx.uint64}
_TYPES |= {"I8": mx.int8, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64}


def weight_paths(files: ModelFiles) -> list[Path]:
    """Return the safetensors files that the index names, or all in the folder if there is no index.

    Raises:
        ModelLoadError: If one is missing or lies outside the folder, or there is only a pickle.
    """
    shards = _shards(files)
    missing = [shard for shard in shards if not (files.path / shard).is_file()]
    if missing:
        raise ModelLoadError(f"{files.path} lacks {', '.join(missing)}, which {INDEX} names: download the model again")
    paths = [files.path / shard for shard in shards] or sorted(files.path.glob("*.safetensors"))
    for path in paths:
        files.file(path.relative_to(files.path).as_posix())
    if not paths:
        raise ModelLoadError(_no_weights(files.path))
    return paths


def _shards(files: ModelFiles) -> list[str]:
    index = files.json(INDEX)
    named = index.get("weight_map", {}) if isinstance(index, dict) else None
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise ModelLoadError(f"{files.path / INDEX} does not say which file holds which weight: download the model again")
    shards = sorted(set(named.values()))
    outside = next((shard for shard in shards if Path(shard).is_absolute() or ".." in Path(shard).parts), None)
    if outside is not None:
        raise ModelLoadError(
            f"{files.path / INDEX} names {outside!r}, which lies outside the model's folder: refused; download the model "
            "again"
        )
    return shards


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")))
    if not pickles:
        return f"{folder} has no *.safetensors: it is not a whole model folder: download the model again"
    return (
        f"{folder} has its weights as a pickle ({pickles[0]}), which can run code and is never read: convert it with "
        "transformers: AutoModel.from_pretrained(folder).save_pretrained(new_folder, safe_serialization=True)"
    )


def read_weights(files: ModelFiles) -> dict[str, mx.array]:
    """Read all arrays lazily: MLX reads their data when they are first used.

    Raises:
        ModelLoadError: If a file is missing, truncated or not what its header says.
    """
    if files.gguf:
        return read_gguf(files.gguf)
    weights: dict[str, mx.array] = {}
    for path in weight_paths(files):
        check_safetensors(path)
        weights.update(_load(path))
    return weights


def _load(path: Path) -> dict[str, mx.array]:
    try:
        if path.suffix == ".safetensors" and parent_computed():
            return _read_here(path)
        return cast("dict[str, mx.array]", mx.load(str(path)))
    except (RuntimeError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read ({error}): download it again") from error


def _read_here(path: Path) -> dict[str, mx.array]:
    """Read a checked safetensors file in the calling thread. ``mx.load`` uses threads, which hang in a forked child."""
    header, data_bytes = read_header(path)
    start = path.stat().st_size - data_bytes
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"tensor {name!r} has the type {entry['dtype']}")
        begin, end = entry["data_offsets"]
        stored = mx.array(np.fromfile(path, np.uint8, end - begin, offset=start + begin))
        arrays[name] = stored.view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def read_gguf(path: Path) -> dict[str, mx.array]:
    """Read all arrays by the checkpoint's names. MLX repacks Q4_0, Q4_1 and Q8_0 into its own format, in groups of 32.

    Raises:
        ModelLoadError: If the file is not what its header says.
    """
    read_gguf_header(path)
    return {checkpoint_name(name): value for name, value in _load(path).items()}
