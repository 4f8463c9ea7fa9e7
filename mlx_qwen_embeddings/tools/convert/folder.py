"""All of a model's folder but the weights: what is copied, what is written, and how it appears, whole or not at all."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import move, sync_tree
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.tools.convert.choice import ConversionError

SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*", "NOTICE*", "*_*/*.json")
"""Tokenizer, modules of sentence-transformers, prompts, model card; never weights, and never code."""

WRITTEN = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
"""What is written with the weights, or belongs to those of the source."""

_FLAGS: dict[Pooling, str] = {"first": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give a folder to fill, beside the target; it becomes the target in the end, or is gone if anything fails.

    Raises:
        ConversionError: When the target is something already, or there is nowhere to put it.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - Path.resolve would follow a link that is in the way
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise ConversionError(f"{target} is there already: name a folder that is new or empty, or remove it first")
    if not target.parent.is_dir():
        raise ConversionError(f"{target.parent} is no folder, so {target.name} cannot be made in it: make it first")
    scratch = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    scratch.mkdir()
    try:
        yield scratch
        sync_tree(scratch)
        move(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def copy_side_files(files: ModelFiles, target: Path) -> None:
    """Copy what belongs to the model, and write what a folder of sentence-transformers has and the source leaves open."""
    for pattern in SIDE_FILES:
        for path in files.path.glob(pattern):
            name = path.relative_to(files.path)
            if path.is_file() and str(name) not in WRITTEN:
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target / name)
    if files.gguf:
        _write_tokenizer(files, target)
    if files.gguf or not (target / "modules.json").exists():
        _write_modules(files, target)
    _complete_prompts(files, target)


def _write_tokenizer(files: ModelFiles, target: Path) -> None:
    # A GGUF may carry its tokenizer, and what it says goes before the files beside it.
    tokenizer = files.raw_tokenizer()
    tokenizer.save(str(target / "tokenizer.json"))
    said = files.json("tokenizer_config.json")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": files.limit} | said
    if files.family.needs_end_token:
        config |= {"pad_token": tokenizer.id_to_token(files.tokenizer().suffix[-1])}
    _write(target / "tokenizer_config.json", config)
    if files.chat_template:
        (target / "chat_template.jinja").write_text(files.chat_template, encoding="utf-8")


def _write_modules(files: ModelFiles, target: Path) -> None:
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(kinds.items())
    ]
    _write(target / "modules.json", modules)
    said = {} if files.gguf else files.json("1_Pooling/config.json")
    flags = {f"pooling_mode_{flag}": pooling == files.pooling for pooling, flag in _FLAGS.items()}
    _write(target / "1_Pooling" / "config.json", said or {"word_embedding_dimension": files.dimensions} | flags)


def _complete_prompts(files: ModelFiles, target: Path) -> None:
    # Known from the registry or the architecture, neither of which goes with the folder.
    name = "config_sentence_transformers.json"
    prompts = {role: files.prompts.get(role, "") for role in ("query", "document")}
    said = files.json(name)
    if not any((said.get("prompts") or {}).values()):
        _write(target / name, said | {"prompts": prompts})


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
