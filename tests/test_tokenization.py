"""Checks on texts, cutting at max_length, and the truncation policy; the end token has a file of its own."""

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from mlx_qwen_embeddings.errors import InputTooLongError, InvalidTextError, MLXQwenEmbeddingsError
from mlx_qwen_embeddings.tokenization import TextTokenizer, check_length, check_texts

WORDS = {"<s>": 0, "</s>": 1, "one": 2, "two": 3, "three": 4, "four": 5, "a": 6, "[UNK]": 7}


def make(template: str | None = "<s> $A </s>", **arguments: Any) -> TextTokenizer:
    raw = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))  # noqa: S106 - no password
    raw.pre_tokenizer = Whitespace()
    if template:
        raw.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return TextTokenizer(raw, **arguments)


def ids(tokenizer: TextTokenizer, text: str, max_length: int = 100) -> list[int]:
    return list(map(int, tokenizer.encode([text], max_length=max_length)[0].ids))


@pytest.mark.parametrize(
    ("template", "prefix", "suffix"),
    [("<s> $A </s>", (0,), (1,)), ("$A </s>", (), (1,)), (None, (), ()), ("$A </s> </s>", (), (1, 1))],
)
def test_special_tokens_are_found(template: str | None, prefix: tuple[int, ...], suffix: tuple[int, ...]) -> None:
    tokenizer = make(template)
    assert (tokenizer.prefix, tokenizer.suffix) == (prefix, suffix)


@pytest.mark.parametrize(
    ("max_length", "expected"), [(6, [0, 2, 3, 4, 5, 1]), (5, [0, 2, 3, 4, 1]), (3, [0, 2, 1]), (2, [0, 1])]
)
def test_a_cut_removes_text_and_no_special_tokens(max_length: int, expected: list[int]) -> None:
    tokens = make().encode(["one two three four"], max_length=max_length)[0]
    assert (tokens.ids.tolist(), tokens.length, str(tokens.ids.dtype)) == (expected, 6, "int32")


def test_an_appended_end_token_counts_and_survives() -> None:
    tokenizer = make("<s> $A", end_token_id=1)
    assert tokenizer.repaired
    assert ids(tokenizer, "one two") == [0, 2, 3, 1]
    assert ids(tokenizer, "one two", 3) == [0, 2, 1]
    assert tokenizer.count(["one two", ""]) == [4, 2]
    assert not make(end_token_id=1).repaired


def test_an_empty_text_is_its_special_tokens() -> None:
    assert ids(make(), "") == [0, 1]


def test_order_is_kept_and_nothing_is_padded() -> None:
    tokens = make().encode(["one two three", "", "two"], max_length=9)
    assert [token.ids.tolist() for token in tokens] == [[0, 2, 3, 4, 1], [0, 1], [0, 3, 1]]
    assert make().encode([], max_length=9) == []


def test_the_vocabulary_reaches_to_the_highest_id() -> None:
    assert make().vocabulary_size == 8


@pytest.mark.parametrize(
    "texts",
    [["a", "b"], ("a", "b"), (text for text in "ab"), np.array(["a", "b"]), dict.fromkeys("ab"), {"a": 1, "b": 2}.keys()],
    ids=["list", "tuple", "generator", "array", "dict", "keys"],
)
def test_any_iterable_of_strings_will_do(texts: object) -> None:
    assert check_texts(texts) == ["a", "b"]


def test_texts_are_never_edited() -> None:
    texts = ["", "  a\n\tb ", "e\u0301", "\u00e9", "\0", "\U0001f600", "\ufeff", "\u202e"]
    assert check_texts(texts) == texts


@pytest.mark.parametrize("texts", ["abc", b"abc", None, 3, 1.5, np.array("a")], ids=repr)
def test_a_value_that_is_not_a_list_is_refused_with_the_remedy(texts: object) -> None:
    with pytest.raises(TypeError, match=rf"must be a list of strings, got {type(texts).__name__} .*write \[text\]"):
        check_texts(texts)


@pytest.mark.parametrize("bad", [None, 3, b"x", ["x"], float("nan"), np.array("x")], ids=repr)
def test_an_item_that_is_not_a_string_is_named_by_its_position(bad: object) -> None:
    with pytest.raises(TypeError, match=rf"texts\[2\] must be a string, got {type(bad).__name__} "):
        check_texts(["a", "b", bad, 7])
    with pytest.raises(TypeError, match=r"texts\[12\]"):
        check_texts(["a", "b", bad, 7], start=10)


def test_a_long_value_is_not_written_out() -> None:
    with pytest.raises(TypeError) as caught:
        check_texts([["x" * 10_000]])
    assert len(str(caught.value)) < 120


def test_a_lone_surrogate_is_named_by_text_and_character() -> None:
    with pytest.raises(InvalidTextError, match=r"texts\[1\] holds a lone surrogate \(U\+DC80\) at character 2") as caught:
        check_texts(["é", "éa\udc80"])
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, MLXQwenEmbeddingsError)


def test_the_policy_for_long_texts() -> None:
    assert check_length(0, 10, 10, "error") is False
    assert check_length(0, 11, 10, "end") is True
    with pytest.raises(InputTooLongError, match=r"texts\[4\] has 11 tokens, more than max_length=10: split it.*\"end\""):
        check_length(4, 11, 10, "error")
