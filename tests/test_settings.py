"""Settings: defaults, the environment, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mlx_qwen_embeddings import EngineSettings

EMPTY: dict[str, str] = {}


def test_defaults() -> None:
    settings = EngineSettings.from_env(EMPTY)
    assert settings == EngineSettings()
    assert (settings.model, settings.revision, settings.device, settings.dtype) == ("small", None, "auto", "auto")
    assert (settings.offline, settings.cache_dir, settings.cache_ttl) == (False, None, None)


def test_each_field_has_its_variable() -> None:
    settings = EngineSettings.from_env(
        {
            "MLX_QWEN_MODEL": "nano",
            "MLX_QWEN_REVISION": "v1",
            "MLX_QWEN_DEVICE": "cpu",
            "MLX_QWEN_DTYPE": "bfloat16",
            "MLX_QWEN_BATCH_TOKENS": "64",
            "MLX_QWEN_QUEUE_TOKENS": "128",
            "MLX_QWEN_CACHE_BYTES": "0",
            "MLX_QWEN_CACHE_TTL": "1.5",
            "MLX_QWEN_OFFLINE": "true",
            "MLX_QWEN_CACHE_DIR": "/some/where",
        }
    )
    assert settings == EngineSettings(
        model="nano",
        revision="v1",
        device="cpu",
        dtype="bfloat16",
        batch_tokens=64,
        queue_tokens=128,
        cache_bytes=0,
        cache_ttl=1.5,
        offline=True,
        cache_dir=Path("/some/where"),
    )


def test_the_environment_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_QWEN_MODEL", "nano")
    assert EngineSettings.from_env().model == "nano"
    monkeypatch.setenv("MLX_QWEN_MODEL", "medium")
    assert EngineSettings.from_env().model == "medium"


def test_an_empty_variable_counts_as_unset() -> None:
    assert EngineSettings.from_env({"MLX_QWEN_MODEL": "", "MLX_QWEN_CACHE_TTL": ""}) == EngineSettings()


def test_arguments_win_over_the_environment_and_none_leaves_it_alone() -> None:
    environ = {"MLX_QWEN_MODEL": "nano", "MLX_QWEN_OFFLINE": "1"}
    settings = EngineSettings.from_env(environ, model="medium", revision=None, offline=False)
    assert (settings.model, settings.revision, settings.offline) == ("medium", None, False)
    assert EngineSettings.from_env(environ, model=None).model == "nano"


def test_variables_of_others_are_left_alone() -> None:
    assert EngineSettings.from_env({"MLX_QWEN_BLAS": "none", "MODEL": "x", "mlx_qwen_model": "y"}) == EngineSettings()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("device", "tpu"),
        ("dtype", "int8"),
        ("batch_tokens", 0),
        ("queue_tokens", 0),
        ("cache_bytes", -1),
        ("cache_ttl", 0),
        ("cache_path", "a\0b"),
        ("offline", "perhaps"),
        ("modle", "nano"),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        EngineSettings.model_validate({field: value})


def test_a_wrong_variable_is_named_and_an_argument_by_its_field() -> None:
    environ = {"MLX_QWEN_DEVICE": "tpu", "MLX_QWEN_DTYPE": "float16", "MLX_QWEN_LANES": "{0}"}
    with pytest.raises(ValidationError) as caught:
        EngineSettings.from_env(environ, batch_tokens=0, lanes=0)
    found = {error["loc"]: error["msg"] for error in caught.value.errors()}
    assert set(found) == {("MLX_QWEN_DEVICE",), ("MLX_QWEN_DTYPE",), ("batch_tokens",), ("lanes",)}
    assert found["MLX_QWEN_DEVICE",] == "Input should be 'auto', 'cpu' or 'gpu'"
    assert "use 'bfloat16' or 'float32'" in found["MLX_QWEN_DTYPE",]
    with pytest.raises(ValidationError, match="MLX_QWEN_LANES"):
        EngineSettings.from_env(environ)


@pytest.mark.parametrize("dtype", ["float16", "fp16"])
def test_float16_is_refused_with_the_reason(dtype: str) -> None:
    with pytest.raises(ValidationError, match=r"overflows to NaN.*use 'bfloat16' or 'float32'"):
        EngineSettings(dtype=dtype)  # type: ignore[arg-type]


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        EngineSettings().model = "nano"


def test_presets_differ_as_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_QWEN_MODEL", "nano")
    fast, soon, small = EngineSettings.high_throughput(), EngineSettings.low_latency(), EngineSettings.low_memory()
    assert {fast.model, soon.model, small.model} == {"nano"}
    assert soon.batch_tokens is not None
    assert fast.batch_tokens is not None
    assert soon.batch_tokens < 2048 < fast.batch_tokens
    assert small.cache_bytes < EngineSettings().cache_bytes
    assert (small.lanes, small.max_loaded_models) == (1, 1)
    assert EngineSettings.low_memory(model="small", lanes=2).model_dump(include={"model", "lanes"}) == {
        "model": "small",
        "lanes": 2,
    }
