"""Checks of a model's files, before anything is computed.

The engine mends some of these faults when it opens a model. Here they fail, since other programs do not mend them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from tokenizers import Tokenizer

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.registry import ModelSpec
from mlx_qwen_embeddings.tools.verify.known import Known
from mlx_qwen_embeddings.tools.verify.report import Check
from mlx_qwen_embeddings.tools.verify.stored import Flaw, flaws

_LONG_TEXT, _CUT = "one two three four five six seven eight nine ten " * 4, 8
_COPY = "copy the original model's {0} into {1}"


def folder_checks(
    files: ModelFiles, weights: list[Path], known: Known | None, dtype: str, card: ModelSpec | None = None
) -> Iterator[Check]:
    """Check what the files say.

    Args:
        files: The model's folder.
        weights: Its safetensors files; empty for other forms, whose numbers are not looked through.
        known: The published model that it is; None when none is known.
        dtype: Compute type.
        card: What is known of the model where its family alone does not tell; None when nothing is.
    """
    yield _guard("end token", "a special token closes a text", lambda: _end_token(files))
    yield _guard("end token, cut", "it closes a text that was cut, too", lambda: _end_token(files, cut=True))
    if files.family.needs_end_token:  # Qwen3: the folder of another family is the only one that knows
        yield _guard("pooling", "last token", lambda: _pooling(files))
        yield _guard("prompts", "the model's own", lambda: _prompts(files, known))
        yield _guard("normalisation", "Normalize is the last module, or no modules.json", lambda: _normalisation(files))
    elif card is not None:
        yield _guard("pooling", f"{card.pooling} token", lambda: _carded_pooling(files, card))
        yield _guard("prompts", "those of the model's card", lambda: _carded_prompts(files, card))
    if weights:
        found = [flaw for path in weights for flaw in _flaws(path)]
        yield _finite(found, files)
        yield _overflow(found, dtype)


def _guard(name: str, expected: str, check: Callable[[], Check]) -> Check:
    """Make a failed row of what the files do not allow to check."""
    try:
        return check()
    except ModelLoadError as error:
        return Check(name, ok=False, expected=expected, found="cannot be told", remedy=str(error))


def _flaws(path: Path) -> list[Flaw]:
    try:
        return list(flaws(path))
    except (ValueError, OSError, TypeError, KeyError):
        return []  # a broken frame is reported, with its reason, when the model is loaded


def _end_token(files: ModelFiles, *, cut: bool = False) -> Check:
    name = "end token, cut" if cut else "end token"
    raw = files.raw_tokenizer()
    # all-MiniLM's tokenizer.json carries both settings, of which the engine takes neither.
    raw.no_padding()
    raw.no_truncation()
    plain: list[int] = raw.encode(_LONG_TEXT, add_special_tokens=False).ids
    if cut:
        raw.enable_truncation(_CUT)
    found: int = raw.encode(_LONG_TEXT, add_special_tokens=True).ids[-1]
    wanted = _wanted_end(files, raw)
    text_goes_on = found in plain  # without a closing token the last one is a word's
    mended = " (the engine does, meanwhile)" if files.family.needs_end_token else ""
    remedy = f"{_COPY.format('tokenizer.json', files.path)}: its post-processor appends the token{mended}"
    return _row(name, _token(raw, wanted), "no end token" if text_goes_on else _token(raw, found), remedy)


def _wanted_end(files: ModelFiles, raw: Tokenizer) -> int:
    if files.family.needs_end_token:
        return files.tokenizer().suffix[-1]  # the engine's own tokenizer is mended
    separator = files.json("tokenizer_config.json").get("sep_token", "[SEP]")
    wanted = raw.token_to_id(separator["content"] if isinstance(separator, dict) else separator)
    return -1 if wanted is None else int(wanted)


def _token(raw: Tokenizer, token: int) -> str:
    return f"{raw.id_to_token(token)} ({token})"


def _pooling(files: ModelFiles) -> Check:
    remedy = f'set "pooling_mode_lasttoken" to true and all other modes to false in {files.path}/1_Pooling/config.json'
    return _row("pooling", f"{files.family.pooling} token", f"{files.pooling} token", remedy)


def _carded_pooling(files: ModelFiles, card: ModelSpec) -> Check:
    remedy = _COPY.format("modules.json and 1_Pooling", files.path)
    return _row("pooling", f"{card.pooling} token", f"{files.pooling} token", remedy)


def _carded_prompts(files: ModelFiles, card: ModelSpec) -> Check:
    wanted = {role: card.prompts.get(role, "") for role in get_args(Role)}
    own = {role: files.prompts.get(role, "") for role in wanted}
    remedy = f'set "prompts" to {json.dumps(wanted)} in {files.path}/config_sentence_transformers.json'
    return _row("prompts", _quoted(wanted), _quoted(own), remedy)


def _quoted(prompts: Mapping[str, str]) -> str:
    return ", ".join(f"{role} {text!r}" for role, text in prompts.items())


def _prompts(files: ModelFiles, known: Known | None) -> Check:
    own = files.prompts.get("query", "")
    remedy = _COPY.format("config_sentence_transformers.json", files.path)
    said = files.json("config_sentence_transformers.json").get("prompts")
    expected = "one for queries, which ends where the query begins"
    if said is not None and "query" not in said and not own:
        return Check("prompts", ok=False, expected=expected, found="none for queries", remedy=remedy)
    if known is not None:
        return _row("prompts", repr(known.prompts["query"]), repr(own), remedy)
    if own != own.rstrip(" "):
        # A space changes the tokens: the first word of the query would lose its own.
        return Check("prompts", ok=False, expected=expected, found=f"{own!r}, a space too long", remedy=remedy)
    return Check("prompts", ok=True, expected=expected, found=repr(own))


def _normalisation(files: ModelFiles) -> Check:
    modules = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in files.json("modules.json") or ()]
    ok = not modules or modules[-1] == "Normalize"
    remedy = "" if ok else _COPY.format("modules.json", files.path) + " (the engine normalises, other programs would not)"
    return Check(
        "normalisation", ok, "Normalize is the last module, or no modules.json", ", ".join(modules) or "none", remedy
    )


def _finite(found: list[Flaw], files: ModelFiles) -> Check:
    broken = [flaw for flaw in found if not flaw.overflowed]
    shown = f"{broken[0].tensor} holds {broken[0].values}{_more(broken)}" if broken else "finite"
    return _row("weights", "finite", shown, f"download the weights in {files.path} again, or convert them again")


def _overflow(found: list[Flaw], dtype: str) -> Check:
    broken = [flaw for flaw in found if flaw.overflowed]
    expected = "float32 or bfloat16, and no weight that a cast overflowed"
    if not broken:
        return Check("dtype", ok=True, expected=expected, found=dtype)
    shown = f"{broken[0].tensor} holds {broken[0].values} in float16{_more(broken)}"
    remedy = "float16 ends at 65,504: convert the original weights again, to bfloat16 or float32"
    return Check("dtype", ok=False, expected=expected, found=shown, remedy=remedy)


def _more(found: list[Flaw]) -> str:
    return f", and {len(found) - 1} more" if len(found) > 1 else ""


def _row(name: str, expected: str, found: str, remedy: str) -> Check:
    ok = expected == found
    return Check(name, ok, expected, found, "" if ok else remedy)
