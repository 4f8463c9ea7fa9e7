"""Names of models: aliases, folders, Hub names, close matches, registration."""

from pathlib import Path

import pytest

from mlx_qwen_embeddings import ModelSpec, list_models, register, registry
from mlx_qwen_embeddings.errors import MLXQwenEmbeddingsError, UnknownModelError
from mlx_qwen_embeddings.registry import resolve


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_models", dict(registry._models))


@pytest.mark.parametrize(
    ("name", "source", "dimensions"),
    [
        ("small", "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ", 1024),
        ("medium", "mlx-community/Qwen3-Embedding-4B-4bit-DWQ", 2560),
        ("large", "mlx-community/Qwen3-Embedding-8B-4bit-DWQ", 4096),
        ("small-mxfp8", "mlx-community/Qwen3-Embedding-0.6B-mxfp8", 1024),
        ("small-8bit", "mlx-community/Qwen3-Embedding-0.6B-8bit", 1024),
        ("medium-bf16", "Qwen/Qwen3-Embedding-4B", 2560),
    ],
)
def test_aliases(name: str, source: str, dimensions: int) -> None:
    spec = resolve(name)
    assert (spec.source, spec.dimensions, spec.local) == (source, dimensions, False)


@pytest.mark.parametrize(
    ("short", "alias"),
    [("0.6b", "small"), ("4b", "medium"), ("8b", "large"), ("8b-bf16", "large-bf16"), ("4b-mxfp8", "medium-mxfp8")],
)
def test_sizes_are_aliases_too_in_any_case(short: str, alias: str) -> None:
    assert resolve(short) == resolve(short.upper()) == resolve(f" {alias} ") == resolve(alias.title())


def test_nano_is_the_folder_in_the_package() -> None:
    assert resolve("nano").local
    assert (Path(resolve("nano").source) / "config.json").is_file()


def test_a_folder_is_found_by_any_path_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    sources = {resolve(name).source for name in (str(folder), "model", "./model", "~/model", f"../{tmp_path.name}/model")}
    assert sources == {str(folder)}
    assert resolve("model").local


PASSAGES = {"query": "Represent this sentence for searching relevant passages: "}
E5 = {"query": "query: ", "document": "passage: "}


@pytest.mark.parametrize(
    ("name", "source", "dimensions", "prompts"),
    [
        ("all-minilm", "sentence-transformers/all-MiniLM-L6-v2", 384, {}),
        ("bge-small", "BAAI/bge-small-en-v1.5", 384, PASSAGES),
        ("bge-base", "BAAI/bge-base-en-v1.5", 768, PASSAGES),
        ("bge-large", "BAAI/bge-large-en-v1.5", 1024, PASSAGES),
        ("mxbai-embed-large", "mixedbread-ai/mxbai-embed-large-v1", 1024, PASSAGES),
        ("snowflake-arctic-embed-m", "Snowflake/snowflake-arctic-embed-m", 768, PASSAGES),
        ("snowflake-arctic-embed-l", "Snowflake/snowflake-arctic-embed-l", 1024, PASSAGES),
        ("e5-small", "intfloat/e5-small-v2", 384, E5),
        ("e5-base", "intfloat/e5-base-v2", 768, E5),
        ("e5-large", "intfloat/e5-large-v2", 1024, E5),
    ],
)
def test_bert_models_have_their_cards_prompts(name: str, source: str, dimensions: int, prompts: dict[str, str]) -> None:
    spec = resolve(name)
    assert (spec.source, spec.dimensions, spec.prompts) == (source, dimensions, prompts)
    assert resolve(source.lower()).prompts == prompts  # by Hub name as well
    assert spec.max_length == 512  # of their positions: all-MiniLM's own default of 256 can be raised


def test_a_prompt_for_no_role_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt for 'passage': the roles are query and document"):
        ModelSpec("x", "owner/x", prompts={"passage": "passage: "})


def test_an_alias_wins_over_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("nano").source != str(tmp_path / "nano")
    assert resolve("./nano").source == str(tmp_path / "nano")


def test_a_hub_name_is_not_changed_and_a_known_one_keeps_its_row() -> None:
    assert resolve("Someone/Some-Model_1.0") == ModelSpec(name="Someone/Some-Model_1.0", source="Someone/Some-Model_1.0")
    assert resolve("qwen/qwen3-embedding-8b").source == "Qwen/Qwen3-Embedding-8B"
    assert resolve("Qwen/Qwen3-Embedding-8B").dimensions == 4096


def test_an_unknown_name_lists_close_matches_and_all_names() -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve("smal")
    assert "unknown model 'smal'. Did you mean 'small'" in str(caught.value)
    assert all(spec.name in str(caught.value) for spec in list_models())
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, MLXQwenEmbeddingsError)


def test_a_name_unlike_any_other_gets_no_suggestion() -> None:
    with pytest.raises(UnknownModelError, match=r"unknown model 'zzzzzz'\. Known: small"):
        resolve("zzzzzz")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere/at/all", "~no_such_user/x", "a/b/c"])
def test_a_missing_path_is_reported_as_a_path(name: str) -> None:
    with pytest.raises(UnknownModelError, match="there is no model folder"):
        resolve(name)


@pytest.mark.parametrize("name", ["", "  ", "a" * 5000, "nul\0", "two words", "ünïcode\udc80"])
def test_odd_names_get_a_plain_error(name: str) -> None:
    with pytest.raises(UnknownModelError, match="unknown model"):
        resolve(name)


def test_a_registered_model_is_listed_and_found_by_all_its_names() -> None:
    spec = register(ModelSpec("Mine", "me/mine", ("my-own",), dimensions=7))
    assert list_models()[-1] is spec
    assert resolve("mine") is resolve("MY-OWN") is spec
    register(spec)
    assert list_models().count(spec) == 1


def test_a_taken_name_is_kept_unless_overwritten() -> None:
    mine = ModelSpec("mine", "me/mine", ("small",))
    with pytest.raises(ValueError, match=r"'small' is taken by 'mlx-community/.*overwrite=True"):
        register(mine)
    with pytest.raises(UnknownModelError):
        resolve("mine")
    register(mine, overwrite=True)
    assert resolve("small") is mine


@pytest.mark.parametrize(("name", "source"), [("", "a/b"), ("a", "")])
def test_a_row_without_name_or_source_is_refused(name: str, source: str) -> None:
    with pytest.raises(ValueError, match="needs a name and a source"):
        ModelSpec(name, source)
