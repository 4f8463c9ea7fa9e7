"""The server's settings: which source wins, and what is refused."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlx_qwen_embeddings import EngineSettings
from mlx_qwen_embeddings.cli.app import app
from mlx_qwen_embeddings.cli.serve import signature
from mlx_qwen_embeddings.server import run
from mlx_qwen_embeddings.server.settings import ServerSettings

EMPTY: dict[str, str] = {}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text('port = 9000\nmodels = ["nano", "small"]\nmodel = "nano"\nbatch_tokens = 99\nmax_texts = 7\n', "utf-8")
    return path


def test_defaults_are_safe() -> None:
    server, engines = ServerSettings.load(environ=EMPTY)
    assert (server.host, server.port, server.cors_origins, server.keys(), server.allow_token_ids) == (
        ("127.0.0.1", 8000, (), [], False)
    )
    assert engines == EngineSettings()


def test_a_flag_wins_over_a_variable_and_that_over_the_file(config: Path) -> None:
    environ = {"MLX_QWEN_PORT": "9001", "MLX_QWEN_MAX_TEXTS": "8", "MLX_QWEN_BATCH_TOKENS": "100"}
    server, engines = ServerSettings.load(config, environ, port=9002, host=None)
    assert (server.port, server.max_texts, server.models, server.host) == (9002, 8, ("nano", "small"), "127.0.0.1")
    assert (engines.model, engines.batch_tokens) == ("nano", 100)


def test_a_variable_names_the_file(config: Path) -> None:
    assert ServerSettings.load(environ={"MLX_QWEN_CONFIG": str(config)})[0].port == 9000


def test_lists_are_comma_separated() -> None:
    environ = {"MLX_QWEN_MODELS": "nano, small,", "MLX_QWEN_API_KEYS": "a,b"}
    server, _ = ServerSettings.load(environ=environ)
    assert (server.models, server.keys()) == (("nano", "small"), ["a", "b"])
    assert "a" not in repr(server.api_keys).replace("SecretStr", "").replace("api", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "there is no setting 'prot'; known are allow_token_ids"),
        ("port =", "is not a TOML file"),
        ("port = 99999", "port: Input should be less than or equal to 65535"),
        ("max_texts = 0", "max_texts: "),
        ('dtype = "float16"', "overflows to NaN"),
        ('log_level = "loud"', "log_level: "),
        ('api_keys = [""]', "api_keys: it names nothing"),
        ('api_keys = ["a", " "]', "api_keys: it names nothing"),
        ("models = []", "models: Value should have at least 1 item"),
    ],
)
def test_invalid_settings_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        ServerSettings.load(path, EMPTY)


def test_an_invalid_variable_is_named() -> None:
    for name in ("PORT", "LANES"):
        with pytest.raises(ValueError, match=f"MLX_QWEN_{name}: Input should be a valid integer"):
            ServerSettings.load(environ={f"MLX_QWEN_{name}": "many"}, max_texts=3)


@pytest.mark.parametrize("name", ["API_KEYS", "MODELS"])
@pytest.mark.parametrize("value", [",", " ", " , "])
def test_a_variable_that_names_nothing_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"MLX_QWEN_{name}: it names nothing: fill it in, or leave the setting out"):
        ServerSettings.load(environ={f"MLX_QWEN_{name}": value})


def test_warm_may_be_empty() -> None:
    assert ServerSettings.load(environ=EMPTY, warm="")[0].warm == ()


def test_keys_exclude_comments_spaces_and_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("\ufefffirst \n# for the second machine\n second\n", "utf-8")
    assert ServerSettings.model_validate({"api_keys": [" zero "], "api_keys_file": path}).keys() == [
        "zero",
        "first",
        "second",
    ]


def test_a_file_without_keys_never_opens_the_server(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# none yet\n\n", "utf-8")
    with pytest.raises(ValueError, match="holds no API key"):
        ServerSettings(api_keys_file=path).keys()
    with pytest.raises(FileNotFoundError):
        ServerSettings(api_keys_file=tmp_path / "absent").keys()


def test_flags_of_serve_reach_server_and_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[tuple[ServerSettings, EngineSettings]] = []
    monkeypatch.setattr(run, "serve", lambda *settings: given.append(settings))
    monkeypatch.setenv("MLX_QWEN_DTYPE", "bfloat16")
    flags = ["--port", "9", "--model", "nano", "--dtype", "float32", "--max-loaded-models", "3"]
    flags += ["--model-dir", str(tmp_path / "models"), "--lanes", "1", "--cache-ttl", "9.5", "--offline"]
    done = CliRunner().invoke(app, ["serve", *flags, "--cache-path", str(tmp_path)])
    assert done.exit_code == 0, done.output
    ((server, engines),) = given
    assert (server.port, engines.model, engines.dtype, engines.max_loaded_models) == (9, "nano", "float32", 3)
    assert (engines.lanes, engines.cache_ttl, engines.offline) == (1, 9.5, True)
    assert (engines.cache_path, engines.cache_dir) == (tmp_path / "vectors.sqlite", tmp_path / "models")


def test_every_setting_but_the_keys_themselves_is_a_flag() -> None:
    # A key on a command line is seen by everybody on the machine.
    flags = {"cache_dir" if name == "model_dir" else name for name in signature().parameters} - {"config"}
    assert flags == (EngineSettings.model_fields.keys() | ServerSettings.model_fields.keys()) - {"api_keys"}


def test_the_help_of_serve_documents_each_flag() -> None:
    shown = " ".join(CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output.split())
    assert re.search(r"--port \S+ Port to listen on; 0 takes a free one\. Default: 8000\.", shown)
    assert "--offline / --no-offline Whether to use only models on disk" in shown
    assert "api-keys " not in shown
