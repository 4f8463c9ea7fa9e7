"""Broken and crafted ``tokenizer.json`` files are refused, or bounded in time and size; those of published models pass."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from mlx_qwen_embeddings.checkpoint import tokenizer as tokenizer_module
from mlx_qwen_embeddings.checkpoint.tokenizer import read_tokenizer
from mlx_qwen_embeddings.errors import InvalidTextError, ModelLoadError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tokenization import TextTokenizer

NANO = json.loads((NANO_FOLDER / "tokenizer.json").read_bytes())
SMALL = NANO | {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "post_processor": None}
"""Quick to read."""


def write(folder: Path, *, escape: bool = False, **changes: Any) -> Path:
    text = json.dumps(SMALL | changes)
    path = folder / "tokenizer.json"
    path.write_text(text.replace('"normalizer"', '"\\u006eormalizer"') if escape else text)
    return path


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def read(path: Path) -> TextTokenizer:
    return TextTokenizer(read_tokenizer(path))


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ModelLoadError, match=f"{path} cannot be read as a tokenizer .*{reason}"):
        read(path)


@pytest.mark.parametrize("content", [None, "{}", "not json", "\xff"])
def test_a_missing_or_broken_file_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content, "latin-1")
    with pytest.raises(ModelLoadError, match=str(tmp_path)):
        read(path)


DOUBLE = replace({"String": "a"}, "aa")
# Reading the file applies the rules to it: 60 of them would make 2**60 letters.
ADDED = {"id": 2, "content": "aaa", "normalized": True, "special": False}
ADDED |= {"single_word": False, "lstrip": False, "rstrip": False}
BOMBS = {
    "doubled": sequence(*[DOUBLE] * 60),
    "nested": sequence(sequence(*[DOUBLE] * 30), sequence(*[DOUBLE] * 30)),
    "long": replace({"String": "a"}, "a" * 1000),
    "by pattern": sequence(*[replace({"Regex": "a"}, "aa")] * 60),
    "of nothing": sequence(*[replace({"Regex": "x*"}, "a")] * 60),
    "empty": sequence(*[replace({"String": ""}, "a")] * 60),
    "without a type": sequence(*[{name: value for name, value in DOUBLE.items() if name != "type"}] * 60),
    "in front": {"type": "Prepend", "prepend": "a" * 1000},
}


@pytest.mark.parametrize("normalizer", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("escape", [False, True])
def test_normalizers_that_make_a_text_much_longer_are_refused(
    normalizer: dict[str, Any], *, escape: bool, tmp_path: Path
) -> None:
    path = write(tmp_path, escape=escape, normalizer=normalizer, added_tokens=[ADDED])
    refused(path, "times longer")


HARMLESS = sequence(
    {"type": "Prepend", "prepend": "\u2581"},
    replace({"String": " "}, "\u2581"),
    replace({"Regex": " {2,}"}, "\u2581"),
    replace({"String": "``"}, '"'),
)


def test_normalizers_of_published_tokenizers_are_accepted(tmp_path: Path) -> None:
    tokenizer = read(write(tmp_path, normalizer=HARMLESS))
    assert tokenizer.count(["a b"]) == [2]


def test_a_tokenizer_that_splits_very_long_words_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for longest in (100, 10**9):
        Tokenizer(WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]", max_input_chars_per_word=longest)).save(str(path))  # noqa: S106
        if longest == 100:
            read(path)
        else:
            refused(path, "1000000000 letters")


def test_a_file_beyond_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "MAX_BYTES", 500)
    refused(write(tmp_path), "more than the 500")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse file: it takes no space on the disk, and would not fit into memory
    refused(path, "has 1099511627776 bytes, more than the 100000000")


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"Replace":' * 100_000, '{"normalizer":' + "[" * 100_000, '["Replace"]']
)
def test_deeply_nested_files_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    refused(path, "")


@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
@pytest.mark.parametrize("pattern", [r"\w*\w*\d", r"(a+)+$", r"(?:a|a)*$"])
def test_a_pattern_that_backtracks_gives_up_with_an_error_that_names_the_text(
    pattern: str, part: str, tmp_path: Path
) -> None:
    # A match ends after ten million steps. Qwen3's own pattern needs more for ten million spaces in a row.
    step = split(pattern) if part == "pre_tokenizer" else replace({"Regex": pattern}, "")
    changes: dict[str, Any] = {part: step}
    tokenizer = read(write(tmp_path, **changes))
    for call in (tokenizer.count, lambda texts: tokenizer.encode(texts, max_length=8)):
        with pytest.raises(InvalidTextError, match=r"gives up on a text of 6001 characters .*split it"):
            call(["fine", "a" * 6000 + "b"])
    assert tokenizer.count(["ab"]) == [2]


def test_dropout_in_the_file_is_ignored(tmp_path: Path) -> None:
    text = "an uncommonly lengthy sentence of incomprehensible circumlocutions"
    tokenizer = read(write(tmp_path, **NANO | {"model": NANO["model"] | {"dropout": 0.5}}))
    wanted = read(NANO_FOLDER / "tokenizer.json").encode([text], max_length=100)[0].ids.tolist()
    assert [token.ids.tolist() for token in tokenizer.encode([text] * 5, max_length=100)] == [wanted] * 5
