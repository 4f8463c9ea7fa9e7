"""The command line: errors, exit statuses, and the commands that check and measure models."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer
from typer.testing import CliRunner

from mlx_qwen_embeddings import cli
from mlx_qwen_embeddings.cli import tools
from mlx_qwen_embeddings.cli.app import app
from mlx_qwen_embeddings.errors import MissingExtraError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.tools import verify as module
from tests.support.command_line import run


@pytest.fixture
def mean_pooled(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(NANO_FOLDER, tmp_path / "copy"))
    path = folder / "1_Pooling" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(config | {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}), "utf-8")
    return folder


def test_verify_prints_a_table_and_exits_with_0_if_all_checks_pass() -> None:
    status, out, err = run("verify", "nano")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0] == "nano: all checks passed; compared with the published values of nano"
    assert lines[1].split() == ["check", "expected", "found"]
    assert [line[0] for line in lines[2:]] == ["✓"] * 16


def test_verify_says_how_to_fix_a_failure_and_exits_with_1(mean_pooled: Path) -> None:
    status, out, err = run("verify", str(mean_pooled))
    assert (status, err) == (1, "")
    assert sum(line.startswith("✗") for line in out.splitlines()) == 4
    assert f"modules.json and 1_Pooling into {mean_pooled}" in out.splitlines()[-4]


def test_verify_as_json(mean_pooled: Path) -> None:
    status, out, _ = run("verify", str(mean_pooled), "--json")
    data = json.loads(out)
    assert (status, data["ok"], data["known"]) == (1, False, "nano")
    assert next(row["name"] for row in data["rows"] if not row["ok"]) == "pooling"


def test_an_error_is_one_line_and_debug_shows_its_traceback() -> None:
    status, out, err = run("verify", "nanoo")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("mlx-qwen: unknown model 'nanoo'. Did you mean 'nano'?")
    result = CliRunner().invoke(app, ["--debug", "verify", "nanoo"])
    assert type(result.exception).__name__ == "UnknownModelError"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("there is no\nstream"), "RuntimeError: there is no stream (mlx-qwen --debug ... shows where)"),
        (KeyError("shape"), "KeyError: 'shape' (mlx-qwen --debug ... shows where)"),
        (MemoryError(), "MemoryError (mlx-qwen --debug ... shows where)"),
        (OSError("no disk"), "no disk"),
    ],
    ids=["RuntimeError", "KeyError", "MemoryError", "OSError"],
)
def test_every_kind_of_error_is_one_line(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "verify", Mock(side_effect=error))
    assert run("verify", "nano") == (1, "", f"mlx-qwen: {said}\n")
    assert CliRunner().invoke(app, ["--debug", "verify", "nano"]).exception is error


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (typer.Exit(3), 3, ""),
        (typer.Abort(), 1, "Aborted!\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(4), 4, ""),
        (BrokenPipeError(errno.EPIPE, "gone"), 1, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_other_ways_to_end_a_command_are_left_alone(
    raised: BaseException, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "verify", Mock(side_effect=raised))
    assert run("verify", "nano") == (status, "", said)


def test_verify_looks_in_the_given_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = run("verify", "small", "--model-dir", str(tmp_path))
    assert (status, err) == (1, "")
    assert f"looked in {tmp_path}/models--mlx-community--Qwen3-Embedding-0.6B-4bit-DWQ" in out


def test_float16_is_refused_in_one_line() -> None:
    status, _, err = run("verify", "nano", "--dtype", "float16")
    expected = "mlx-qwen: dtype 'float16' overflows to NaN on Qwen3-Embedding-8B: use 'bfloat16' or 'float32'\n"
    assert (status, err) == (1, expected)


@pytest.mark.parametrize("arguments", [("nonsense",), ("verify",), ("verify", "nano", "--nonsense"), ("evaluate", "nano")])
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: mlx-qwen" in err


def test_without_typer_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: str) -> None:
        message = "The command line needs the package 'typer': pip install \"mlx-qwen-embeddings[cli]\""
        raise MissingExtraError(message)

    monkeypatch.setattr(cli, "require", absent)
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == (
        "mlx-qwen: The command line needs the package 'typer': pip install \"mlx-qwen-embeddings[cli]\""
    )


def test_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"mlx-qwen-embeddings\[cli\]"):
        cli.main(["--help"])


def test_an_invalid_variable_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_QWEN_DEVICE", "tpu")
    status, out, err = run("embed", "a", "--model", "nano")
    assert (status, out, err) == (1, "", "mlx-qwen: MLX_QWEN_DEVICE: Input should be 'auto', 'cpu' or 'gpu'\n")


def test_help_lists_the_commands_and_imports_nothing_slow() -> None:
    program = (
        "import sys\n"
        "from mlx_qwen_embeddings.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print(sorted({'numpy', 'pydantic', 'mlx', 'tokenizers', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert {"verify", "evaluate"} <= {line.split()[0] for line in done.stdout.splitlines() if line.strip()}


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "mlx_qwen_embeddings", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mlx-qwen-embeddings 0.1.0 on Python 3.")


def test_evaluate_prints_a_table(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("score\ta\tb\n5\tA dog runs.\tA dog is running.\n0\tA dog runs.\tI like soup.\n", "utf-8")
    status, out, err = run("evaluate", "nano", "--sts", str(pairs))
    assert (status, err) == (0, "")
    head, row = out.splitlines()
    assert head.split() == ["set", "figure", "score", "queries", "documents", "seconds"]
    assert row.split()[:4] == [str(pairs), "Spearman", "1.000", "2"]
    status, out, _ = run("evaluate", "nano", "--sts", str(pairs), "--json")
    assert json.loads(out)[0]["value"] == pytest.approx(1.0)


def test_evaluate_prints_one_row_per_set(tmp_path: Path) -> None:
    texts = {"birds": "Swallows leave for Africa in autumn.", "stew": "Let the beef simmer for three hours."}
    for name, rows in (("corpus", texts), ("queries", {"q": "Where do birds go in winter?"})):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in rows.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), "utf-8")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tbirds\t1\n", "utf-8")
    status, out, err = run("evaluate", "nano", str(tmp_path), str(tmp_path))
    assert (status, err) == (0, "")
    assert [row.split()[:5] for row in out.splitlines()[1:]] == [[str(tmp_path), "nDCG@10", "1.000", "1", "2"]] * 2


def test_evaluate_names_a_missing_file_in_one_line(tmp_path: Path) -> None:
    status, out, err = run("evaluate", "nano", str(tmp_path))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "corpus.jsonl" in err


def test_doctor_shows_device_folders_and_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_QWEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MLX_QWEN_MODEL", "nano")
    monkeypatch.setenv("MLX_QWEN_OFFLINE", "1")
    # In its own process, because MLX measures on the main thread, whose streams other tests need.
    command = [sys.executable, "-m", "mlx_qwen_embeddings", "doctor", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    facts = json.loads(ended.stdout)
    assert ended.stderr == ""
    assert (facts["default model"], facts["downloaded models"], facts["offline"]) == ("nano", str(tmp_path), True)
    assert facts["persistent cache"] is None
    assert facts["device"] in {"cpu", "gpu"}
    assert float(facts["matrix products"].removesuffix(" GFLOP/s")) > 0
    assert float(facts["memory reads"].removesuffix(" GB/s")) > 0


def test_doctor_prints_one_line_per_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_computing", lambda: {"device": "cpu", "BLAS": "/lib/libmkl_rt.so"})
    monkeypatch.setattr(tools, "_storage", lambda: {"persistent cache": None})
    status, out, err = run("doctor")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[3:6] == ["device               cpu", "BLAS                 /lib/libmkl_rt.so", "persistent cache     none"]
