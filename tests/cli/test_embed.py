"""``mlx-qwen embed``: complete outputs from every kind of input to every kind of output."""

import inspect
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.cli import common
from mlx_qwen_embeddings.cli.embed import bulk, compare, embed
from mlx_qwen_embeddings.options import OPTIONS
from mlx_qwen_embeddings.precision import quantize
from mlx_qwen_embeddings.registry import NANO_FOLDER
from mlx_qwen_embeddings.similarity import Metric
from tests.support.command_line import run as run_command

TEXTS = ["Birds fly south.", "Stew takes hours."]


@pytest.fixture(scope="module")
def wanted(engine: EmbeddingEngine) -> Any:
    return engine.embed_documents(TEXTS)


def run(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
    return run_command("embed", "-m", "nano", *arguments, stdin=stdin)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def short(vector: Any) -> str:
    return "  " + "  ".join(f"{value:.4f}" for value in vector[:10])


def test_the_short_view(wanted: Any) -> None:
    lines = [text for row in (0, 1) for text in (TEXTS[row], "  384 dimensions, norm 1.0000", f"{short(wanted[row])}  …")]
    assert run(*TEXTS) == (0, "\n".join(lines) + "\n", "")


def test_the_short_view_shows_a_long_text_in_one_line() -> None:
    assert run("many words\nand lines " * 20)[1].splitlines()[0] == ("many words and lines " * 4)[:69] + "…"


def test_the_short_view_of_few_dimensions_that_are_not_normalised(engine: EmbeddingEngine) -> None:
    vector = engine.embed_documents(TEXTS[:1], dimensions=4, normalize=False)[0]
    norm = f"  4 dimensions, norm {np.linalg.norm(vector):.4f}"
    assert run(TEXTS[0], "--dimensions", 4, "--no-normalize")[1].splitlines() == [TEXTS[0], norm, short(vector)]


def test_the_short_view_of_bytes(wanted: Any) -> None:
    values = "  ".join(map(str, quantize(wanted[0], "ubinary")[:10]))
    expected = [TEXTS[0], "  48 bytes, uint8", f"  {values}  …"]
    assert run(TEXTS[0], "--precision", "ubinary")[1].splitlines() == expected


def test_lines_of_a_pipe_as_json_lines(wanted: Any) -> None:
    status, out, err = run("--format", "jsonl", stdin="\n".join(TEXTS) + "\n")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, err, [row["text"] for row in rows]) == (0, "", TEXTS)
    same([row["embedding"] for row in rows], wanted)


def test_rows_of_a_pipe_as_json(wanted: Any) -> None:
    stdin = "".join(json.dumps({"id": text[:2], "body": text}) + "\n" for text in TEXTS)
    arguments = ("-i", "-", "--input-format", "jsonl", "--column", "body", "--format", "json", "--vector-column", "v")
    status, out, err = run(*arguments, stdin=stdin)
    rows = json.loads(out)
    assert (status, err, [row["id"] for row in rows]) == (0, "", ["Bi", "St"])
    same([row["v"] for row in rows], wanted)


def test_each_file_is_one_text(tmp_path: Path, wanted: Any) -> None:
    paths = [tmp_path / "a.md", tmp_path / "b.md"]
    for path, text in zip(paths, TEXTS, strict=True):
        path.write_text(text, "utf-8")
    rows = [json.loads(line) for line in run("-f", paths[0], "-f", paths[1], "--format", "jsonl")[1].splitlines()]
    assert [row["file"] for row in rows] == list(map(str, paths))
    same([row["embedding"] for row in rows], wanted)
    paths[0].write_bytes(b"\xff")
    expected = f"mlx-qwen: {paths[0]} is not UTF-8 (invalid start byte at byte 0): convert it\n"
    assert run("-f", paths[0]) == (1, "", expected)


def test_a_column_into_parquet(tmp_path: Path, wanted: Any) -> None:
    (tmp_path / "in.csv").write_text("id,text\n" + "".join(f"0{n},{text}\n" for n, text in enumerate(TEXTS)), "utf-8")
    target = tmp_path / "out.parquet"
    assert run("-i", tmp_path / "in.csv", "-o", target) == (0, f"{target}: 2 vectors of 384 dimensions\n", "")
    table = pq.read_table(target)
    assert table["id"].to_pylist() == ["00", "01"]
    same(np.array(table["embedding"].to_pylist()), wanted)
    again = f"mlx-qwen: {target} exists: pass overwrite=True (--overwrite) to replace it\n"
    assert run("-i", tmp_path / "in.csv", "-o", target) == (1, "", again)
    assert run("-i", tmp_path / "in.csv", "-o", target, "--overwrite")[0] == 0


def test_the_input_format_overrides_the_suffix(wanted: Any, tmp_path: Path) -> None:
    tabs = "id\ttext\n" + "".join(f"{number}\t{text}\n" for number, text in enumerate(TEXTS))
    commas = tmp_path / "commas.tsv"
    commas.write_text(tabs.replace("\t", ","), "utf-8")
    for arguments, stdin in ((("-i", "-", "--input-format", "tsv"), tabs), (("-i", commas, "--input-format", "csv"), "")):
        status, out, _ = run(*arguments, "--format", "jsonl", stdin=stdin)
        assert status == 0
        same([json.loads(line)["embedding"] for line in out.splitlines()], wanted)


def test_a_vector_column_that_exists_is_refused() -> None:
    expected = "mlx-qwen: the input has a column 'text' already: choose another name for the vectors\n"
    assert run("a", "--format", "jsonl", "--vector-column", "text") == (1, "", expected)


def test_the_options_reach_the_engine(tmp_path: Path, engine: EmbeddingEngine) -> None:
    target = tmp_path / "out.npy"
    shape = ("--role", "query", "--instruction", "Find it", "--dimensions", 64, "--pooling", "mean", "--max-length", 11)
    status, _, _ = run(*TEXTS, "-o", target, *shape, "--no-normalize", "--precision", "float16")
    vectors = engine.embed_queries(
        TEXTS, instruction="Find it", dimensions=64, pooling="mean", max_length=11, normalize=False
    )
    assert status == 0
    np.testing.assert_array_equal(np.load(target), vectors.astype(np.float16))
    status, _, err = run(*TEXTS, *shape, "--truncate", "error")
    assert (status, err.count("\n")) == (1, 1)
    assert "more than max_length=11" in err


def test_the_model_is_looked_up_in_the_given_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = run("-m", "small", "--model-dir", tmp_path, "a")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"looked in {tmp_path}/models--mlx-community--Qwen3-Embedding-0.6B-4bit-DWQ" in err


def test_texts_are_rendered_with_the_models_chat_template(tmp_path: Path) -> None:
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("user: {{ messages[0].content }}", "utf-8")
    with EmbeddingEngine(str(folder)) as engine:
        wanted = engine.embed_documents(["user: a"])
    rows = [json.loads(run("a", "-m", folder, "--format", "jsonl", *option)[1]) for option in ((), ("--chat-template",))]
    same(rows[1]["embedding"], wanted[0])
    assert np.abs(np.array(rows[0]["embedding"]) - wanted[0]).max() > 0.01


def test_a_model_without_a_chat_template_says_so() -> None:
    status, out, err = run("a", "--chat-template")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "has no chat template" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("a", "-f", "b"),
        ("-i", "a", "-f", "b"),
        ("a", "--pooling", "none"),
        ("a", "--dimensions", 0),
        ("a", "--format", "x"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[object, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: mlx-qwen embed" in err


def test_without_texts_a_terminal_gets_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("mlx_qwen_embeddings.cli.embed.sys", type("Sys", (), {"stdin": Terminal()}))
    status, _, err = run()
    assert status == 2
    assert "nothing to embed: give texts, --file, --input, or a pipe" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("a", "-o", "vectors.txt"), "vectors.txt: the name of the output must end in one of .json"),
        (("a", "--precision", "int8", "--no-normalize"), "precision 'int8' needs vectors of unit length"),
        (("-i", "none.jsonl"), "[Errno 2] No such file or directory: 'none.jsonl'"),
        (("a", "--dimensions", 385), "dimensions=385"),
    ],
)
def test_errors_are_one_line(arguments: tuple[object, ...], expected: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"mlx-qwen: {expected}")


def test_ctrl_c_says_how_to_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_qwen_embeddings.bulk import file

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(file, "run", interrupted)
    target = tmp_path / "out.npy"
    assert run("a", "-o", target) == (130, "", f"mlx-qwen: stopped; run the same command again to continue {target}\n")


def test_a_reader_that_closes_the_pipe_is_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n" * 3000, "utf-8")
    command = [sys.executable, "-m", "mlx_qwen_embeddings", "embed", "-m", "nano", "-i", str(tmp_path / "in.txt")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "a\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


def test_every_option_that_changes_vectors_or_refuses_texts_has_a_flag() -> None:
    options = {name for name, option in OPTIONS.items() if option.effect != "run"}
    for command in (embed, bulk):
        assert options <= inspect.signature(command).parameters.keys()
    assert options - inspect.signature(compare).parameters.keys() == {"precision"}


def test_the_metrics_are_those_of_the_package() -> None:
    assert get_args(common.Metric) == get_args(Metric)
