"""What a model's files say: pooling, prompts, lengths, chat template; and files with nonsense in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen_embeddings import EngineSettings
from mlx_qwen_embeddings.checkpoint import files as model_files
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.engine.model import find_files
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from mlx_qwen_embeddings.registry import NANO_FOLDER

CONFIG = {"model_type": "qwen3", "hidden_size": 64, "max_position_embeddings": 40_000}


def folder(path: Path, **files: Any) -> ModelFiles:
    """Write JSON files, named with ``__`` for a slash, beside a small config.json."""
    for name, content in ({"config": CONFIG} | files).items():
        file = path / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return ModelFiles(path)


def test_a_folder_with_config_json_alone_uses_the_familys_defaults(tmp_path: Path) -> None:
    files = folder(tmp_path)
    assert (files.pooling, files.dimensions, files.max_length, files.limit) == ("last", 64, 8192, 40_000)
    assert files.prompts == {"query": QWEN3_PROMPT}
    assert files.chat_template is None


def test_what_nanos_files_say() -> None:
    files = ModelFiles(NANO_FOLDER)
    assert (files.pooling, files.dimensions, files.max_length, files.limit) == ("last", 384, 2048, 2048)
    assert files.prompts == {"query": "", "document": ""}


# Pooling


@pytest.mark.parametrize(
    ("mode", "pooling"), [("cls_token", "first"), ("mean_tokens", "mean"), ("max_tokens", "max"), ("lasttoken", "last")]
)
def test_pooling_by_flags(mode: str, pooling: Pooling, tmp_path: Path) -> None:
    flags = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    assert folder(tmp_path, **{"1_Pooling__config": flags}).pooling == pooling


@pytest.mark.parametrize(("mode", "pooling"), [("cls", "first"), ("mean", "mean"), (["lasttoken"], "last")])
def test_pooling_by_name(mode: object, pooling: Pooling, tmp_path: Path) -> None:
    assert folder(tmp_path, **{"1_Pooling__config": {"pooling_mode": mode}}).pooling == pooling


def test_modules_json_names_the_folder_of_the_pooling(tmp_path: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "9_Pool"}]
    files = {"9_Pool__config": {"pooling_mode": "mean"}, "1_Pooling__config": {"pooling_mode": "max"}}
    assert folder(tmp_path, modules=modules, **files).pooling == "mean"


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode": "weightedmean"},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": False},
        {"pooling_mode": []},
    ],
    ids=str,
)
def test_pooling_that_is_not_served_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"1_Pooling/config\.json asks for pooling .* not served"):
        _ = folder(tmp_path, **{"1_Pooling__config": config}).pooling


def test_a_module_that_would_change_every_vector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="module 'Dense', which is not served"):
        _ = folder(tmp_path, modules=[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]).pooling


# Prompts


@pytest.mark.parametrize(
    ("said", "query", "document"),
    [
        ({"prompts": {"query": "q: ", "document": "d: "}}, "q: ", "d: "),
        ({"prompts": {"query": "q: ", "passage": "p: "}}, "q: ", "p: "),
        ({"prompts": {"query": "q: "}}, "q: ", ""),
        ({"prompts": {"sts": "s: "}, "default_prompt_name": "sts"}, "s: ", "s: "),
        ({"prompts": {"query": None, "document": "d: "}}, "", "d: "),
        ({"prompts": {}}, "", ""),
    ],
    ids=str,
)
def test_prompts_of_sentence_transformers(said: dict[str, Any], query: str, document: str, tmp_path: Path) -> None:
    assert folder(tmp_path, config_sentence_transformers=said).prompts == {"query": query, "document": document}


# Lengths


@pytest.mark.parametrize(
    ("position", "tokenizer", "own", "expected"),
    [
        (512, None, None, (512, 512)),
        (40_000, 32_768, None, (8192, 32_768)),
        (40_000, 1e30, 128, (128, 40_000)),
        (512, None, 9999, (512, 512)),
        (None, None, None, (8192, 8192)),
    ],
)
def test_lengths(
    position: int | None, tokenizer: float | None, own: int | None, expected: tuple[int, int], tmp_path: Path
) -> None:
    files = folder(
        tmp_path,
        config=CONFIG | {"max_position_embeddings": position},
        tokenizer_config={"model_max_length": tokenizer},
        sentence_bert_config={"max_seq_length": own},
    )
    assert (files.max_length, files.limit) == expected


# Chat templates


def test_the_chat_template_is_in_its_own_file_or_in_tokenizer_config(tmp_path: Path) -> None:
    assert folder(tmp_path, tokenizer_config={"chat_template": "{{ old }}"}).chat_template == "{{ old }}"
    (tmp_path / "chat_template.jinja").write_text("{{ new }}")
    assert ModelFiles(tmp_path).chat_template == "{{ new }}"


def test_a_chat_template_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    files = folder(tmp_path)
    with (tmp_path / "chat_template.jinja").open("wb") as file:
        file.truncate(2**40)  # a sparse file: it takes no space on the disk, and would not fit into memory
    with pytest.raises(
        ModelLoadError, match=r"chat_template\.jinja cannot be read as a chat template \(it has 1099511627776 bytes"
    ):
        _ = files.chat_template


def test_a_chat_template_that_is_not_text_is_refused(tmp_path: Path) -> None:
    files = folder(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelLoadError, match=r"chat_template\.jinja cannot be read as a chat template"):
        _ = files.chat_template


# Nonsense


@pytest.mark.parametrize(
    "files",
    [
        {"config": "[1]"},
        {"config": "3"},
        {"config": "{"},
        {"config": "[" * 100_000},
        {"config": CONFIG | {"model_type": ["qwen3"]}},
        {"config": {"model_type": "qwen3"}},
        {"config": CONFIG | {"hidden_size": None}},
        {"config": CONFIG | {"max_position_embeddings": "many"}},
        {"modules": {"a": 1}},
        {"modules": [3]},
        {"tokenizer_config": [1]},
        {"sentence_bert_config": {"max_seq_length": "x"}},
        {"config_sentence_transformers": {"prompts": None}},
        {"config_sentence_transformers": "nonsense"},
        {"1_Pooling__config": [1]},
        {"1_Pooling__config": {"pooling_mode": 3}},
    ],
    ids=lambda files: str(files)[:60],
)
def test_nonsense_is_refused_with_the_folders_name(files: dict[str, Any], tmp_path: Path) -> None:
    folder(tmp_path, **files)
    with pytest.raises(ModelLoadError, match=str(tmp_path)):
        find_files(EngineSettings(model=str(tmp_path)))


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(
        ModelLoadError, match=rf"^{tmp_path} has no config\.json, so it is not a model folder: give a complete one"
    ):
        find_files(EngineSettings(model=str(tmp_path)))


def test_a_revision_of_a_local_folder_makes_no_sense(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(ModelLoadError, match="revision='v1' makes no sense"):
        find_files(EngineSettings(model=str(tmp_path), revision="v1"))


def test_a_json_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "MAX_TEXT_BYTES", 1000)
    folder(tmp_path, modules=[{"path": "x" * 2000}])
    with pytest.raises(
        ModelLoadError, match=r"modules\.json cannot be read as JSON \(it has 20\d\d bytes, more than 1000\)"
    ):
        find_files(EngineSettings(model=str(tmp_path)))
