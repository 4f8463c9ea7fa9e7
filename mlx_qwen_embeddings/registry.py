"""The table of models: aliases, specifications, and how a name is resolved to one."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from mlx_qwen_embeddings._fork import ForkSafeLock
from mlx_qwen_embeddings.errors import UnknownModelError
from mlx_qwen_embeddings.prompts import E5_PROMPTS, PASSAGES_PROMPTS, Role

NANO_FOLDER = Path(__file__).parent / "nano"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One row of the registry.

    Attributes:
        name: The alias that ``list_models`` shows.
        source: Hub name (``owner/name``, with ``:Q8_0`` after it for one of several GGUF files), local folder or local
            ``.gguf`` file.
        aliases: Other names.
        dimensions: Width of its vectors; None when only the checkpoint says.
        max_length: Most tokens that a text may have, which can exceed the default; None when only the checkpoint says.
        weights: How the weights are stored, such as "4-bit DWQ" or "bf16".
        download_bytes: Approximate size on disk, in bytes; None when unknown.
        local: Whether ``source`` is a folder on this machine.
        prompts: Prompts by role from the model's card, used when its files have none.
        pooling: Pooling from its card ("last", "mean", "first"), for ``verify``; the engine takes it from the files. None
            when the card does not say.
    """

    name: str
    source: str
    aliases: tuple[str, ...] = ()
    dimensions: int | None = None
    max_length: int | None = None
    weights: str = ""
    download_bytes: int | None = None
    local: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    pooling: str | None = None

    def __post_init__(self) -> None:
        """Raise a ``ValueError`` for a row that could never be resolved."""
        if not self.name or not self.source:
            raise ValueError(f"a model needs a name and a source, got name={self.name!r}, source={self.source!r}")
        if unknown := [role for role in self.prompts if role not in get_args(Role)]:
            raise ValueError(f"{self.name!r} has a prompt for {unknown[0]!r}: the roles are {' and '.join(get_args(Role))}")


def _qwen3(size: str, names: tuple[str, str], dimensions: int, billions: float) -> list[ModelSpec]:
    forms = [
        ("", f"mlx-community/Qwen3-Embedding-{size}-4bit-DWQ", "4-bit DWQ", 0.5625),
        ("-mxfp8", f"mlx-community/Qwen3-Embedding-{size}-mxfp8", "mxfp8", 1.03),
        ("-bf16", f"Qwen/Qwen3-Embedding-{size}", "bf16", 2.0),
    ]
    if size == "0.6B":
        forms.append(("-8bit", f"mlx-community/Qwen3-Embedding-{size}-8bit", "8-bit", 1.0625))
    name, alias = names
    return [
        ModelSpec(name + suffix, source, (alias + suffix,), dimensions, 32768, weights, int(billions * 1e9 * bytes_each))
        for suffix, source, weights, bytes_each in forms
    ]


def _bert(
    name: str, source: str, width: int, megabytes: int, prompts: Mapping[str, str] | None, *, weights: str = "fp32"
) -> ModelSpec:
    pooling = "first" if prompts is PASSAGES_PROMPTS else "mean"
    size = megabytes * 1_000_000
    return ModelSpec(name, source, (), width, 512, weights, size, prompts=dict(prompts or {}), pooling=pooling)


_BUILT_IN = [
    *_qwen3("0.6B", ("small", "0.6b"), 1024, 0.596),
    *_qwen3("4B", ("medium", "4b"), 2560, 4.02),
    *_qwen3("8B", ("large", "8b"), 4096, 7.57),
    ModelSpec("nano", str(NANO_FOLDER), (), 384, 2048, weights="8- and 5-bit", download_bytes=0, local=True),
    replace(_bert("all-minilm", "sentence-transformers/all-MiniLM-L6-v2", 384, 91, None), aliases=("all-minilm-l6-v2",)),
    _bert("bge-small", "BAAI/bge-small-en-v1.5", 384, 133, PASSAGES_PROMPTS),
    _bert("bge-base", "BAAI/bge-base-en-v1.5", 768, 438, PASSAGES_PROMPTS),
    _bert("bge-large", "BAAI/bge-large-en-v1.5", 1024, 1340, PASSAGES_PROMPTS),
    _bert("mxbai-embed-large", "mixedbread-ai/mxbai-embed-large-v1", 1024, 670, PASSAGES_PROMPTS, weights="fp16"),
    _bert("snowflake-arctic-embed-m", "Snowflake/snowflake-arctic-embed-m", 768, 436, PASSAGES_PROMPTS),
    _bert("snowflake-arctic-embed-l", "Snowflake/snowflake-arctic-embed-l", 1024, 1340, PASSAGES_PROMPTS),
    _bert("e5-small", "intfloat/e5-small-v2", 384, 133, E5_PROMPTS),
    _bert("e5-base", "intfloat/e5-base-v2", 768, 438, E5_PROMPTS),
    _bert("e5-large", "intfloat/e5-large-v2", 1024, 1340, E5_PROMPTS),
]

_lock = ForkSafeLock()
_models: dict[str, ModelSpec] = {}


def list_models() -> list[ModelSpec]:
    """Return every registered model, in the order of registration."""
    with _lock:
        return list(dict.fromkeys(_models.values()))


def register(spec: ModelSpec, *, overwrite: bool = False) -> ModelSpec:
    """Add and return a model under its name and aliases, which are not case-sensitive.

    Args:
        spec: The row to add.
        overwrite: Whether it may replace existing names.

    Raises:
        ValueError: When a name is taken and ``overwrite`` is false.
    """
    names = [name.lower() for name in (spec.name, *spec.aliases)]
    with _lock:
        taken = [name for name in names if name in _models and _models[name] != spec]
        if taken and not overwrite:
            raise ValueError(
                f"model name {taken[0]!r} is taken by {_models[taken[0]].source!r}: pass overwrite=True to replace it"
            )
        _models.update(dict.fromkeys(names, spec))
    return spec


def resolve(name: str) -> ModelSpec:
    """Return the specification for an alias, a local folder or GGUF file, or a Hub name.

    An alias wins over a folder of the same name: write ``./small`` for the folder.

    Raises:
        UnknownModelError: When it is none of these; the message lists similar names and all aliases.
    """
    with _lock:
        if spec := _models.get(name.strip().lower()):
            return spec
    if path := _existing(name):
        # A file in the Hub's cache is a link to a blob without a file name, so links to files are not resolved.
        whole = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
        return ModelSpec(name=whole.name, source=str(whole), local=True)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if _HUB_NAME.fullmatch(name) and not looks_like_path:
        known = next((row for row in list_models() if row.source.lower() == name.lower()), None)
        return replace(known, name=name) if known else ModelSpec(name=name, source=name)
    if looks_like_path:
        raise UnknownModelError(
            f"there is no model folder {name!r}: check the path, or give an alias such as 'nano' or a Hub name"
        )
    with _lock:
        names = list(_models)
    close = difflib.get_close_matches(name.lower(), names, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise UnknownModelError(
        f"unknown model {name!r}.{hint} Known: {', '.join(names)}; or a local folder, or a Hub name such as 'owner/name'."
    )


def _existing(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if name.strip() and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user's home, or a NUL: not a path
        return None


for _spec in _BUILT_IN:
    register(_spec)
