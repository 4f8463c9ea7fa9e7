"""Read configuration, pooling, prompts, lengths and tokenizer from a model's files, but no weights."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Sequence

from mlx_qwen_embeddings.checkpoint.gguf import metadata
from mlx_qwen_embeddings.checkpoint.gguf.header import Header, read_header
from mlx_qwen_embeddings.checkpoint.tokenizer import read_tokenizer
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.models import FAMILIES, Family
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.tokenization import TextTokenizer

DEFAULT_MAX_LENGTH = 8192
"""Maximum tokens of a text unless the caller raises it: longer texts cost much memory and time."""

MAX_TEXT_BYTES = 100_000_000
"""Largest JSON file or chat template that is read. The largest published ones have less than a hundredth of that."""

_POOLING_NAMES: dict[str, Pooling] = {"cls": "first", "cls_token": "first", "lasttoken": "last"}
_POOLING_NAMES |= {"max": "max", "max_tokens": "max", "mean": "mean", "mean_tokens": "mean"}
_SERVED_MODULES = ("Transformer", "Pooling", "Normalize")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFiles:
    """The folder of a model.

    Attributes:
        path: The folder.
        revision: Commit on the Hub; None for a local folder.
        gguf: The file that holds configuration, tokenizer and weights; None for a folder with config.json. JSON files
            beside it supply what it lacks.
        known_prompts: The registry's prompts by role, used when the files name none.
    """

    path: Path
    revision: str | None = None
    gguf: Path | None = None
    known_prompts: Mapping[str, str] = field(default_factory=dict, hash=False)

    def file(self, name: str) -> Path:
        """Return the path of a file, which may be missing.

        Raises:
            ModelLoadError: When it is outside the folder, or a link that leads outside. Links in the Hub's cache from a
                snapshot to its blobs are allowed.
        """
        path = self.path / name
        if self.gguf != path and not is_inside(self.path, path):
            raise ModelLoadError(
                f"{path} leads outside the model's folder, to {path.resolve()}: refused; put the file itself there"
            )
        return path

    def json(self, name: str) -> Any:
        """Parse a JSON file of the folder; a missing one is an empty mapping.

        Raises:
            ModelLoadError: When it is not JSON, or is outside the folder.
        """
        path = self.file(name)
        if not path.is_file():
            return {}
        try:
            return json.loads(_read_text(path))
        except (ValueError, OSError, RecursionError) as error:
            raise ModelLoadError(f"{path} cannot be read as JSON ({error}): download it again") from error

    @cached_property
    def header(self) -> Header | None:
        """The header of the GGUF file; None for a folder with config.json."""
        return read_header(self.gguf) if self.gguf else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``, or the same from a GGUF's metadata."""
        if self.header:
            return metadata.config_of(self.header)
        config = self.json("config.json")
        if not config:
            raise ModelLoadError(f"{self.path} has no config.json, so it is not a model folder: give a complete one")
        return dict(config)

    @cached_property
    def family(self) -> Family:
        """The architecture that ``model_type`` names."""
        kind = self.config.get("model_type")
        if kind not in FAMILIES:
            raise ModelLoadError(
                f"{self.path} holds a model of type {kind!r}, which is not served; served are: {', '.join(FAMILIES)}"
            )
        return FAMILIES[kind]

    @cached_property
    def pooling(self) -> Pooling:
        """The model's own pooling: from its GGUF, from sentence-transformers' files, or what its architecture uses."""
        if self.header and (named := metadata.pooling_of(self.header)):
            return named
        folder, config = self._pooling_config
        if config:
            return _pooling(config, self.path / folder)
        if not self.family.needs_end_token:  # a family with an end token is always pooled there
            logger.warning(
                "%s does not say how its vectors are pooled: %r is used, as in sentence-transformers. If its card says "
                "otherwise, copy modules.json and 1_Pooling from the original model, or pass pooling=.",
                self.path,
                self.family.pooling,
            )
        return self.family.pooling

    @cached_property
    def pools_prompt(self) -> bool:
        """Whether a mean includes the tokens of the prompt: false for INSTRUCTOR and models like it."""
        return self._pooling_config[1].get("include_prompt") is not False

    @cached_property
    def _pooling_config(self) -> tuple[str, dict[str, Any]]:
        folder = "1_Pooling"
        for module in self.json("modules.json") or ():
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            if kind not in _SERVED_MODULES:
                raise ModelLoadError(
                    f"{self.path}/modules.json has a module {kind!r}, which is not served and would change every vector: "
                    "take a model without it"
                )
            if kind == "Pooling":
                folder = module.get("path", folder)
        return folder, self.json(f"{folder}/config.json")

    @cached_property
    def prompts(self) -> dict[str, str]:
        """The model's own prompts by role; "" stands for none."""
        config = self.json("config_sentence_transformers.json")
        if "prompts" not in config:
            return dict(self.known_prompts or self.family.prompts)
        named = {name: text for name, text in config["prompts"].items() if text is not None}
        default = named.get(config.get("default_prompt_name") or "", "")
        # The names that sentence-transformers tries for a document, in its order.
        document = next((named[name] for name in ("document", "passage", "corpus") if name in named), default)
        own = {"query": named.get("query", default), "document": document}
        # sentence-transformers saves an empty prompt for both roles when none was set.
        return own if any(own.values()) or not self.known_prompts else dict(self.known_prompts)

    @cached_property
    def limit(self) -> int:
        """Maximum number of tokens that the model can read."""
        limits = self.config.get("max_position_embeddings"), self.json("tokenizer_config.json").get("model_max_length")
        # Tokenizers without a limit carry 1e30.
        return int(min((limit for limit in limits if limit and limit < 2**31), default=DEFAULT_MAX_LENGTH))

    @cached_property
    def max_length(self) -> int:
        """Maximum tokens of a text by default: sentence-transformers' setting or 8,192, but never above the limit."""
        own = self.json("sentence_bert_config.json").get("max_seq_length")
        return min(own or DEFAULT_MAX_LENGTH, self.limit)

    @cached_property
    def dimensions(self) -> int:
        """Width of a full vector."""
        return int(self.config["hidden_size"])

    @cached_property
    def chat_template(self) -> str | None:
        """The source of the model's own chat template, in Jinja; None when it has none."""
        if self.header:
            return self.header.metadata.get("tokenizer.chat_template")
        path = self.file("chat_template.jinja")
        if path.is_file():
            try:
                return _read_text(path)
            except (ValueError, OSError) as error:
                raise ModelLoadError(f"{path} cannot be read as a chat template ({error}): download it again") from error
        template = self.json("tokenizer_config.json").get("chat_template")
        return template if isinstance(template, str) else None

    def tokenizer(self) -> TextTokenizer:
        """Read the tokenizer. One that lost its end token is repaired, with a warning.

        Raises:
            ModelLoadError: When it is missing, broken, or has more ids than the model has embeddings.
        """
        raw = self.raw_tokenizer()
        if self.json("sentence_bert_config.json").get("do_lower_case") is True:
            before = [raw.normalizer] if raw.normalizer else []
            raw.normalizer = Sequence([Lowercase(), *before])  # first, as in sentence-transformers
        end = self._end_token_id(raw.token_to_id) if self.family.needs_end_token else None
        tokenizer = TextTokenizer(raw, end_token_id=end)
        if tokenizer.repaired:
            logger.warning(
                "%s: the tokenizer does not close a text with %r, which the model needs: it is appended. Copy the original "
                "model's tokenizer.json to repair the folder.",
                self.path,
                raw.id_to_token(end) if end is not None else None,
            )
        rows = self.config.get("vocab_size")
        if rows is not None and tokenizer.vocabulary_size > rows:
            raise ModelLoadError(
                f"{self.path}: the tokenizer has {tokenizer.vocabulary_size} ids, the model only {rows} embeddings: they "
                "belong to different models; copy tokenizer.json from the model's own repository"
            )
        return tokenizer

    def raw_tokenizer(self) -> Tokenizer:
        """Read the tokenizer without repairing it.

        Raises:
            ModelLoadError: When it is missing or broken.
        """
        if self.header and metadata.carries_tokenizer(self.header):
            ids = {token: number for number, token in enumerate(self.header.metadata["tokenizer.ggml.tokens"])}
            return metadata.build_tokenizer(self.header, self._end_token_id(ids.get))
        tokenizer = read_tokenizer(self.file("tokenizer.json"))
        if self.header:
            metadata.check_sibling(self.header, tokenizer)
        return tokenizer

    def _end_token_id(self, token_to_id: Any) -> int:
        # Not eos_token: Qwen3's is <|im_end|>, which ends a turn of chat. The encoder was trained with the padding token.
        pad = self.json("tokenizer_config.json").get("pad_token")
        names = [pad.get("content") if isinstance(pad, dict) else pad, "<|endoftext|>"]
        found = [token_to_id(name) for name in names if name]
        known = [token for token in (*found, self.config.get("eos_token_id")) if isinstance(token, int)]
        if not known:
            raise ModelLoadError(
                f"{self.path}: no end token is named in tokenizer_config.json or config.json: copy the original files"
            )
        return known[0]


def is_inside(folder: Path, path: Path) -> bool:
    """Return whether a file is inside a model's folder, or is a blob of the same repository in the Hub's cache."""
    root = folder.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if any(path.resolve().is_relative_to(place) for place in (root, blobs)):
        return True
    # A blob may itself be a link into a store that models share; huggingface_hub made both links.
    parent = path.parent.resolve()
    linked = path.is_symlink() and Path(os.path.normpath(parent / path.readlink())).parent == blobs != root
    return linked and parent.is_relative_to(root)


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, more than {MAX_TEXT_BYTES}")
    return path.read_text(encoding="utf-8")


def _pooling(config: dict[str, Any], path: Path) -> Pooling:
    # sentence-transformers writes one "pooling_mode" since 6.0, and wrote one flag per mode before.
    prefix = "pooling_mode_"
    flags = [name.removeprefix(prefix) for name, on in config.items() if name.startswith(prefix) and on is True]
    mode = config.get("pooling_mode", flags)
    modes = [mode] if isinstance(mode, str) else list(mode)
    if len(modes) != 1 or modes[0] not in _POOLING_NAMES:
        raise ModelLoadError(
            f"{path}/config.json asks for pooling {modes}, which is not served; served is one of {sorted(_POOLING_NAMES)}"
        )
    return _POOLING_NAMES[modes[0]]
