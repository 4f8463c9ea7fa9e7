"""The end token, from which a vector is read: it survives truncation, and is appended when a tokenizer lost it."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.support.checkpoints import NANO_END

END = NANO_END
TEXTS = ["the tide follows the moon", "", "  ", "a<|endoftext|>", "tide " * 30]


@pytest.fixture(scope="module")
def nano() -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy nano with another tokenizer.json."""
    shutil.copytree(NANO_FOLDER, folder, dirs_exist_ok=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return folder


def lose_post_processor(tokenizer: dict[str, Any]) -> None:
    tokenizer["post_processor"] = None


def wrong_post_processor(tokenizer: dict[str, Any]) -> None:
    # The chat models of the family have the byte-level part alone.
    tokenizer["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


def truncate_and_pad(tokenizer: dict[str, Any]) -> None:
    tokenizer["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    tokenizer["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": END,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }


@pytest.mark.parametrize("change", [lose_post_processor, wrong_post_processor])
def test_a_lost_end_token_is_appended_with_a_warning(
    change: Callable[[dict[str, Any]], None],
    nano: EmbeddingEngine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rewritten(tmp_path, change)
    with caplog.at_level(logging.WARNING, "mlx_qwen_embeddings"), EmbeddingEngine(str(tmp_path)) as engine:
        vectors = engine.embed_documents(TEXTS)
        short = engine.embed_documents(TEXTS, max_length=4)
        assert engine.count_tokens(TEXTS) == nano.count_tokens(TEXTS)
    assert [record.message for record in caplog.records if "does not close a text with '<|endoftext|>'" in record.message]
    np.testing.assert_allclose(vectors, nano.embed_documents(TEXTS), atol=1e-6)
    np.testing.assert_allclose(short, nano.embed_documents(TEXTS, max_length=4), atol=1e-6)


def test_truncation_and_padding_in_the_file_are_ignored(
    nano: EmbeddingEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewritten(tmp_path, truncate_and_pad)
    assert (
        len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("tide " * 30).ids) == 64
    )  # the file does truncate
    with caplog.at_level(logging.WARNING, "mlx_qwen_embeddings"), EmbeddingEngine(str(tmp_path)) as engine:
        np.testing.assert_allclose(engine.embed_documents(TEXTS), nano.embed_documents(TEXTS), atol=1e-6)
        assert engine.stats().truncations == 0
    assert not [record for record in caplog.records if record.name.startswith("mlx_qwen_embeddings.m")]


@pytest.mark.parametrize("asked", [True, False])
def test_text_is_lowercased_when_sentence_transformers_files_say_so(*, asked: bool, tmp_path: Path) -> None:
    rewritten(tmp_path, lambda tokenizer: tokenizer.update(normalizer=None))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512, "do_lower_case": asked}))
    upper, lower = ModelFiles(tmp_path).tokenizer().encode(["Über THE Tide", "über the tide"], max_length=512)
    assert (upper.ids.tolist() == lower.ids.tolist()) is asked


@pytest.mark.parametrize("max_length", [2, 3, 7, 30])
def test_truncation_keeps_the_end_token(max_length: int, nano: EmbeddingEngine) -> None:
    tokenizer = ModelFiles(NANO_FOLDER).tokenizer()
    text = "one two three four five six seven eight nine ten " * 6
    whole, cut = tokenizer.encode([text], max_length=2048)[0], tokenizer.encode([text], max_length=max_length)[0]
    assert cut.ids.tolist() == [*whole.ids[: max_length - 1].tolist(), END]
    assert cut.length == whole.length == len(whole.ids)
    # The vector is that of the remaining text: every word here is one token.
    left = " ".join(text.split()[: max_length - 1])
    np.testing.assert_allclose(nano.embed_documents([text], max_length=max_length), nano.embed_documents([left]), atol=1e-6)


def test_the_end_token_is_the_padding_token_not_the_end_of_a_turn(tmp_path: Path) -> None:
    # Qwen3's own tokenizer_config.json names <|im_end|> as eos_token.
    rewritten(tmp_path, lose_post_processor)
    said = {"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>", "special": True}, "model_max_length": 99}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert ModelFiles(tmp_path).tokenizer().suffix == (END,)


def test_without_a_tokenizer_config_the_familys_end_token_is_used(tmp_path: Path) -> None:
    rewritten(tmp_path, lose_post_processor)
    (tmp_path / "tokenizer_config.json").unlink()
    assert ModelFiles(tmp_path).tokenizer().suffix == (END,)


def test_a_model_that_names_no_end_token_is_refused(tmp_path: Path) -> None:
    def rename(tokenizer: dict[str, Any]) -> None:
        lose_post_processor(tokenizer)
        for token in tokenizer["added_tokens"]:
            token["content"] = token["content"].replace("endoftext", "stop")

    rewritten(tmp_path, rename)
    (tmp_path / "tokenizer_config.json").unlink()
    config = json.loads((NANO_FOLDER / "config.json").read_text())
    del config["eos_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="no end token is named"):
        ModelFiles(tmp_path).tokenizer()


def test_a_leading_special_token_survives_truncation_too(tmp_path: Path) -> None:
    rewritten(tmp_path, lose_post_processor)
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    raw.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", END)]
    )
    raw.save(str(tmp_path / "tokenizer.json"))
    cut = ModelFiles(tmp_path).tokenizer().encode(["one two three four five six"], max_length=4)[0]
    words = raw.encode("one two", add_special_tokens=False).ids
    assert cut.ids.tolist() == [END, *words, END]
