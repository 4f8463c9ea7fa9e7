"""Write a model's folder in MLX's format: weights and configuration, with mlx-lm's functions, and all other files.

mlx-lm's own ``convert`` cannot be used: it does not know BERT, refuses the official layout of Qwen3-Embedding (names
without ``model.``), and does not copy pooling and prompts. Its functions for packing, shards and configuration take any
model.
"""

import io
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.loading import build, fill, load_errors
from mlx_qwen_embeddings.compute.mlx.backend import Backend, claim_thread, computing, free_buffers
from mlx_qwen_embeddings.compute.quantization import unpack
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.tools.convert.packing import DTYPES, ConversionError, Packing

OTHER_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*", "NOTICE*", "*_*/*.json")
"""Patterns of the files that are copied: tokenizer, modules of sentence-transformers, prompts, model card. Never code."""

NOT_COPIED = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Files that match these patterns but are written here, or describe the source's weights."""

POOLING_FLAGS: dict[Pooling, str] = {"first": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}


def write_weights(
    files: ModelFiles, target: Path, packing: Packing | None, dtype: str | None, backend: Backend
) -> tuple[str, bool, int]:
    """Write ``config.json`` and the safetensors files. The arrays belong to the calling thread, which frees them.

    Args:
        files: The source.
        target: An existing folder.
        packing: How to pack matrices; None writes them unpacked.
        dtype: Type of the weights that are not packed; None keeps the source's.
        backend: Where to compute.

    Returns:
        The type of the weights that are not packed; whether packed weights were packed again, and so rounded twice; and the
        number of matrices that could not be packed, because their rows are not a multiple of the group size.

    Raises:
        ModelLoadError: If the source's weights do not fit its configuration.
        ConversionError: If no matrix can be packed as asked.
        MissingExtraError: If mlx-lm is not installed.
    """
    try:
        mlx_lm = require("mlx_lm.utils", "convert", "Converting a model")
        with computing(backend):
            claim_thread(backend)
            with load_errors(files):
                model, weights, layers = build(files)
                # Among packed weights only the scales have a type, and it may be a smaller one: nano's are float16.
                declared = files.config.get("torch_dtype") or files.config.get("dtype")
                dtype = dtype or ("float32" if layers and declared == "float32" else _most_common_dtype(weights))
                fill(model, unpack(weights, layers, mx.float32), getattr(mx, dtype))
            del weights
            named = model
            if _is_language_model(files.config):  # whose encoder is a part, so that its weights' names begin with "model."
                named = nn.Module()
                named.model = model
            config = _config(files.config, dtype)
            with redirect_stdout(io.StringIO()):  # mlx-lm prints
                if packing:
                    named, config = mlx_lm.quantize_model(
                        named, config, packing.group_size, packing.bits, mode=packing.mode
                    )
                unpacked = _count_unpacked(files, named, packing)
                mlx_lm.save_model(target, named, donate_model=True)
            mlx_lm.save_config(config, target / "config.json")
            return dtype, bool(layers) and packing is not None, unpacked
    finally:
        free_buffers()
        mx.clear_streams()  # otherwise MLX aborts the process at exit, since this thread ends


def _most_common_dtype(weights: Mapping[str, mx.array]) -> str:
    names = {getattr(mx, name): name for name in DTYPES}
    counted = Counter(names[array.dtype] for array in weights.values() if array.dtype in names)
    return counted.most_common(1)[0][0] if counted else DTYPES[0]


def _is_language_model(config: Mapping[str, Any]) -> bool:
    return bool(config["model_type"] == "qwen3")


def _config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in ("quantization", "quantization_config", "dtype")}
    # No head is stored. This tells mlx-lm and transformers not to look for one.
    tied = {"tie_word_embeddings": True} if _is_language_model(config) else {}
    return kept | tied | {"torch_dtype": dtype}


def _count_unpacked(files: ModelFiles, model: nn.Module, packing: Packing | None) -> int:
    if packing is None:
        return 0
    stored: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    packed = {name.removesuffix(".scales") for name in stored if name.endswith(".scales")}
    if not packed:
        raise ConversionError(
            f"nothing in {files.path} can be packed in groups of {packing.group_size}: no matrix has rows that are a "
            "multiple of it; take a smaller --group-size"
        )
    matrices = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    return len([name for name in matrices if name not in packed])


def copy_other_files(files: ModelFiles, target: Path) -> None:
    """Copy the source's other files, and write those of a sentence-transformers folder that it lacks."""
    for pattern in OTHER_FILES:
        for path in files.path.glob(pattern):
            name = path.relative_to(files.path)
            if path.is_file() and str(name) not in NOT_COPIED:
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target / name)
    if files.gguf:
        _write_tokenizer(files, target)
    if files.gguf or not (target / "modules.json").exists():
        _write_modules(files, target)
    _write_prompts(files, target)


def _write_tokenizer(files: ModelFiles, target: Path) -> None:
    # A tokenizer in the GGUF file takes precedence over the files beside it.
    tokenizer = files.raw_tokenizer()
    tokenizer.save(str(target / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": files.limit}
    config |= files.json("tokenizer_config.json")
    if files.family.needs_end_token:
        config |= {"pad_token": tokenizer.id_to_token(files.tokenizer().suffix[-1])}
    _write_json(target / "tokenizer_config.json", config)
    if files.chat_template:
        (target / "chat_template.jinja").write_text(files.chat_template, encoding="utf-8")


def _write_modules(files: ModelFiles, target: Path) -> None:
    folders = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": folder, "type": f"sentence_transformers.models.{name}"}
        for number, (name, folder) in enumerate(folders.items())
    ]
    _write_json(target / "modules.json", modules)
    own = {} if files.gguf else files.json("1_Pooling/config.json")
    flags = {f"pooling_mode_{flag}": pooling == files.pooling for pooling, flag in POOLING_FLAGS.items()}
    _write_json(target / "1_Pooling" / "config.json", own or {"word_embedding_dimension": files.dimensions} | flags)


def _write_prompts(files: ModelFiles, target: Path) -> None:
    # Prompts that come from the registry or the architecture are not in the source's folder.
    name = "config_sentence_transformers.json"
    own = files.json(name)
    if not any((own.get("prompts") or {}).values()):
        _write_json(target / name, own | {"prompts": {role: files.prompts.get(role, "") for role in ("query", "document")}})


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
