"""Checks of a model's files, before anything is computed.

The engine repairs some of these faults when it opens a model. Here they fail, because other programs do not repair them.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from tokenizers import Tokenizer

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.checkpoint.safetensors import read_header
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.registry import ModelSpec
from mlx_qwen_embeddings.tools.verify.published import PublishedModel
from mlx_qwen_embeddings.tools.verify.report import Check

_LONG_TEXT, _MAX_LENGTH = "one two three four five six seven eight nine ten " * 4, 8
_COPY = "copy the original model's {0} into {1}"

CHUNK = 2**24
"""Numbers of a tensor that are read at a time, so that a file may be larger than memory."""

FLOAT_FORMATS = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F80_0000)}
"""Each floating-point type as an integer, and the bits of its infinity. Above it is NaN, below it the largest number."""


class Flaw(NamedTuple):
    """A tensor with values that no correct checkpoint has.

    Attributes:
        tensor: Its name in the file.
        stored_as: Its type in the file, such as "F16".
        values: "NaN", "infinity" or "its type's largest number", which is what a cast that clamps makes of an overflow.
    """

    tensor: str
    stored_as: str
    values: str


def file_checks(
    files: ModelFiles, weights: list[Path], published: PublishedModel | None, dtype: str, card: ModelSpec | None = None
) -> Iterator[Check]:
    """Check a model's files.

    ``weights`` are its safetensors files; the numbers in other formats are not checked. ``card`` is the registry's row with
    pooling and prompts, for families that do not determine them.
    """
    yield _guard("end token", "a special token closes a text", lambda: _end_token(files))
    yield _guard("end token, cut", "it closes a text that was cut, too", lambda: _end_token(files, cut=True))
    if files.family.needs_end_token:  # Qwen3, whose pooling and normalisation are known
        yield _guard("pooling", "last token", lambda: _pooling(files, files.family.pooling))
        yield _guard("prompts", "the model's own", lambda: _prompts(files, published))
        yield _guard("normalisation", "Normalize is the last module, or no modules.json", lambda: _normalisation(files))
    elif card is not None:
        yield _guard("pooling", f"{card.pooling} token", lambda: _pooling(files, str(card.pooling)))
        yield _guard("prompts", "those of the model's card", lambda: _prompts_of_card(files, card))
    if weights:
        yield from _weight_checks(files, [flaw for path in weights for flaw in _find_flaws(path)], dtype)


def _guard(name: str, expected: str, check: Callable[[], Check]) -> Check:
    """Return a failed check if the files cannot be read."""
    try:
        return check()
    except ModelLoadError as error:
        return Check(name, ok=False, expected=expected, found="cannot be read", remedy=str(error))


def _end_token(files: ModelFiles, *, cut: bool = False) -> Check:
    raw = files.raw_tokenizer()
    # all-MiniLM's tokenizer.json has both settings. The engine uses neither.
    raw.no_padding()
    raw.no_truncation()
    plain: list[int] = raw.encode(_LONG_TEXT, add_special_tokens=False).ids
    if cut:
        raw.enable_truncation(_MAX_LENGTH)
    last: int = raw.encode(_LONG_TEXT, add_special_tokens=True).ids[-1]
    found = "no end token" if last in plain else _token(raw, last)
    repaired = " (the engine appends it, other programs would not)" if files.family.needs_end_token else ""
    remedy = f"{_COPY.format('tokenizer.json', files.path)}: its post-processor appends the token{repaired}"
    return Check.equal("end token, cut" if cut else "end token", _token(raw, _expected_end(files, raw)), found, remedy)


def _expected_end(files: ModelFiles, raw: Tokenizer) -> int:
    if files.family.needs_end_token:
        return files.tokenizer().suffix[-1]  # the engine's own tokenizer is repaired
    separator = files.json("tokenizer_config.json").get("sep_token", "[SEP]")
    token = raw.token_to_id(separator["content"] if isinstance(separator, dict) else separator)
    return -1 if token is None else int(token)


def _token(raw: Tokenizer, token: int) -> str:
    return f"{raw.id_to_token(token)} ({token})"


def _pooling(files: ModelFiles, pooling: str) -> Check:
    remedy = _COPY.format("modules.json and 1_Pooling", files.path)
    return Check.equal("pooling", f"{pooling} token", f"{files.pooling} token", remedy)


def _prompts_of_card(files: ModelFiles, card: ModelSpec) -> Check:
    expected = {role: card.prompts.get(role, "") for role in get_args(Role)}
    own = {role: files.prompts.get(role, "") for role in expected}
    remedy = f'set "prompts" to {json.dumps(expected)} in {files.path}/config_sentence_transformers.json'
    wanted, found = (", ".join(f"{role} {text!r}" for role, text in prompts.items()) for prompts in (expected, own))
    return Check.equal("prompts", wanted, found, remedy)


def _prompts(files: ModelFiles, published: PublishedModel | None) -> Check:
    own = files.prompts.get("query", "")
    remedy = _COPY.format("config_sentence_transformers.json", files.path)
    prompts = files.json("config_sentence_transformers.json").get("prompts")
    expected = "one for queries that ends right before the query"
    if prompts is not None and "query" not in prompts and not own:
        return Check("prompts", ok=False, expected=expected, found="none for queries", remedy=remedy)
    if published is not None:
        return Check.equal("prompts", repr(published.prompts["query"]), repr(own), remedy)
    if own != own.rstrip(" "):
        # The space would be a token of its own, instead of a part of the query's first word.
        return Check("prompts", ok=False, expected=expected, found=f"{own!r}, which ends in a space", remedy=remedy)
    return Check("prompts", ok=True, expected=expected, found=repr(own))


def _normalisation(files: ModelFiles) -> Check:
    modules = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in files.json("modules.json") or ()]
    ok = not modules or modules[-1] == "Normalize"
    remedy = "" if ok else _COPY.format("modules.json", files.path) + " (the engine normalises, other programs would not)"
    return Check(
        "normalisation", ok, "Normalize is the last module, or no modules.json", ", ".join(modules) or "none", remedy
    )


def _weight_checks(files: ModelFiles, flaws: list[Flaw], dtype: str) -> Iterator[Check]:
    overflowed = [flaw for flaw in flaws if flaw.stored_as == "F16" and flaw.values != "NaN"]  # a cast to float16 did it
    broken = [flaw for flaw in flaws if flaw not in overflowed]
    remedy = f"download the weights in {files.path} again, or convert them again"
    yield Check.equal("weights", "finite", _shown(broken) or "finite", remedy)
    expected = "float32 or bfloat16, and no weight that overflowed in a cast"
    remedy = "float16 ends at 65,504: convert the original weights again, to bfloat16 or float32" if overflowed else ""
    yield Check("dtype", not overflowed, expected, _shown(overflowed) or dtype, remedy)


def _shown(flaws: list[Flaw]) -> str:
    more = f", and {len(flaws) - 1} more" if len(flaws) > 1 else ""
    return f"{flaws[0].tensor} holds {flaws[0].values} in {flaws[0].stored_as}{more}" if flaws else ""


def _find_flaws(path: Path) -> Iterator[Flaw]:
    """Look for NaN, infinity and overflow in the tensors of a safetensors file, without loading the model."""
    # A broken header is reported, with its reason, when the model is loaded.
    with suppress(ValueError, OSError, TypeError, KeyError):
        header, data_bytes = read_header(path)
        start = path.stat().st_size - data_bytes
        for name, entry in header.items():
            if entry.get("dtype") in FLOAT_FORMATS:
                begin, end = entry["data_offsets"]
                values = _worst_value(path, start + begin, end - begin, *FLOAT_FORMATS[entry["dtype"]])
                if values:
                    yield Flaw(name, entry["dtype"], values)


def _worst_value(path: Path, offset: int, size: int, integer: str, infinity: int) -> str:
    kind = np.dtype(integer)
    without_sign = 2 ** (8 * kind.itemsize - 1) - 1
    highest = 0
    for begin in range(0, size // kind.itemsize, CHUNK):
        count = min(CHUNK, size // kind.itemsize - begin)
        bits = np.fromfile(path, kind, count, offset=offset + begin * kind.itemsize)
        highest = max(highest, int((bits & without_sign).max(initial=0)))
    if highest > infinity:
        return "NaN"
    return {infinity: "infinity", infinity - 1: "its type's largest number"}.get(highest, "")
