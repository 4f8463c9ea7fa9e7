"""Test ``embed_file``: all formats, what the output keeps of the rows, how runs continue, and what is refused."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import embed_file
from mlx_qwen_embeddings.bulk.job import locked
from mlx_qwen_embeddings.bulk.sources import JsonLinesSource
from mlx_qwen_embeddings.errors import InputTooLongError
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from tests.support.power_cut import watched_renames

TEXTS = ["Birds fly south.", "Stew takes hours, and a pot.", "", "Ünïcode 文字 🐟", "Birds fly south."]


@pytest.fixture(scope="module")
def wanted(engine: EmbeddingEngine) -> Any:
    return engine.embed_documents(TEXTS)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    rows = [
        f'{{"id": {number}, "score": 1.50, "text": {json.dumps(text)}, "big": 12345678901234567890}}'
        for number, text in enumerate(TEXTS)
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\ufeff" + "\n\n".join(rows) + "\r\n", "utf-8")
    return path


def table(path: Path, column: str = "text") -> pa.Table:
    moment = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
    made = pa.table(
        {
            "id": pa.array([5, 4, 3, 2, 1], pa.int8()),
            column: TEXTS,
            "tags": pa.array([["a"], [], None, ["b", "c"], ["d"]], pa.list_(pa.string())),
            "at": pa.array([moment] * 5, pa.timestamp("ms", tz="UTC")),
            "price": pa.array([Decimal("1.50")] * 5, pa.decimal128(10, 2)),
            "kind": pa.array(["x", "y", "x", "y", "x"]).dictionary_encode(),
        }
    ).replace_schema_metadata({"made by": "a test"})
    pq.write_table(made, path, row_group_size=2)
    return made


def vectors_of(path: Path) -> Any:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return np.array([row["embedding"] for row in rows], np.float32)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_json_lines_keep_their_text(lines: Path, engine: EmbeddingEngine, wanted: Any) -> None:
    report = embed_file(lines, lines.with_name("out.jsonl"), model=engine, part_rows=2)
    assert (report.rows, report.resumed, report.dimensions) == (5, 0, 384)
    given = [line for line in lines.read_text("utf-8-sig").splitlines() if line]
    written = report.target.read_text("utf-8").splitlines()
    assert [line.split(', "embedding"')[0] + "}" for line in written] == given
    same(vectors_of(report.target), wanted)


def test_json_is_one_array(lines: Path, engine: EmbeddingEngine, wanted: Any) -> None:
    target = embed_file(lines, lines.with_name("out.json"), model=engine, vector_column="v").target
    rows = json.loads(target.read_text("utf-8"))
    same([row.pop("v") for row in rows], wanted)
    assert rows == [json.loads(line) for line in lines.read_text("utf-8-sig").splitlines() if line]


def test_npy_holds_only_the_vectors(lines: Path, engine: EmbeddingEngine) -> None:
    target = lines.with_name("out.npy")
    embed_file(lines, target, model=engine, part_rows=3, role="query", instruction="Find it", dimensions=64)
    same(np.load(target), engine.embed_queries(TEXTS, instruction="Find it", dimensions=64))


@pytest.mark.parametrize("role", ["document", "query"])
def test_queries_and_documents_are_embedded_differently(role: Any, prompted: str, lines: Path) -> None:
    # Without an instruction: with one, queries and documents get the same prompt.
    with EmbeddingEngine(prompted) as engine:
        embed_file(lines, lines.with_name("out.npy"), model=engine, role=role)
        wanted = {"document": engine.embed_documents(TEXTS), "query": engine.embed_queries(TEXTS)}
    same(np.load(lines.with_name("out.npy")), wanted[role])
    assert np.abs(wanted["document"] - wanted["query"]).max() > 1e-3


def test_parquet_keeps_types_and_metadata(tmp_path: Path, engine: EmbeddingEngine, wanted: Any) -> None:
    made = table(tmp_path / "in.parquet", "body")
    target = tmp_path / "out.parquet"
    embed_file(tmp_path / "in.parquet", target, model=engine, column="body", part_rows=2)
    read = pq.read_table(target)
    assert read.schema.metadata[b"made by"] == b"a test"
    assert read.drop_columns(["embedding"]).equals(made)
    assert read.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    same(np.array(read["embedding"].to_pylist()), wanted)


def test_parquet_to_json_lines(tmp_path: Path, engine: EmbeddingEngine, wanted: Any) -> None:
    table(tmp_path / "in.parquet")
    target = embed_file(tmp_path / "in.parquet", tmp_path / "out.jsonl", model=engine).target
    row = json.loads(target.read_text("utf-8").splitlines()[3])
    same(row.pop("embedding"), wanted[3])
    moment = "2026-11-21T08:30:00+00:00"
    assert row == {"id": 2, "text": TEXTS[3], "tags": ["b", "c"], "at": moment, "price": "1.50", "kind": "y"}


def test_bytes_for_json_are_refused_before_anything_is_computed(tmp_path: Path, engine: EmbeddingEngine) -> None:
    pq.write_table(pa.table({"x": [float("nan")], "text": ["a"], "image": [b"\xff"]}), tmp_path / "in.parquet")
    before = engine.stats().texts
    with pytest.raises(ValueError, match=r"it holds bytes.*write Parquet"):
        embed_file(tmp_path / "in.parquet", tmp_path / "out.jsonl", model=engine)
    assert engine.stats().texts == before
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_nan_and_infinity_are_null_in_json(tmp_path: Path, engine: EmbeddingEngine) -> None:
    rows = {"text": ["a", "b"], "x": [float("nan"), 0.5], "more": [{"y": [float("inf"), 1.0]}, {"y": []}]}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    target = embed_file(tmp_path / "in.parquet", tmp_path / "out.jsonl", model=engine).target
    found = [json.loads(line, parse_constant=pytest.fail) for line in target.read_text("utf-8").splitlines()]
    assert [(row["x"], row["more"]["y"]) for row in found] == [(None, [None, 1.0]), (0.5, [])]


def test_parquet_types_are_inferred_from_json_lines(tmp_path: Path, engine: EmbeddingEngine) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"text": "a", "n": null}\n{"text": "b", "n": 1, "more": {"x": [1]}}\n{"text": "c", "n": 2.5}\n', "utf-8"
    )
    read = pq.read_table(embed_file(source, tmp_path / "out.parquet", model=engine).target).to_pylist()
    assert [(row["n"], row["more"]) for row in read] == [(None, None), (1.0, {"x": [1]}), (2.5, None)]
    source.write_text('{"text": "a", "n": "one"}\n{"text": "b", "n": 1}\n', "utf-8")
    with pytest.raises(ValueError, match=r"in.jsonl.*one Parquet column cannot hold.*write JSONL"):
        embed_file(source, tmp_path / "no.parquet", model=engine)


def test_csv_cells_stay_strings(tmp_path: Path, engine: EmbeddingEngine, wanted: Any) -> None:
    source = tmp_path / "in.csv"
    rows = "".join(f'"0{number}","{text}"\r\n' for number, text in enumerate(TEXTS))
    source.write_text(f"\ufeffid,text\r\n{rows}", "utf-8", newline="")
    read = pq.read_table(embed_file(source, tmp_path / "out.parquet", model=engine).target)
    assert read["id"].to_pylist() == ["00", "01", "02", "03", "04"]
    same(np.array(read["embedding"].to_pylist()), wanted)
    source.with_suffix(".tsv").write_text("id\ttext\n1\ta, b\n", "utf-8")
    target = embed_file(source.with_suffix(".tsv"), tmp_path / "tab.jsonl", model=engine).target
    assert json.loads(target.read_text("utf-8"))["text"] == "a, b"


def test_a_csv_cell_may_exceed_pythons_limit(tmp_path: Path, engine: EmbeddingEngine) -> None:
    (tmp_path / "in.csv").write_text("text\n" + "word " * 40_000 + "\n", "utf-8")
    assert embed_file(tmp_path / "in.csv", tmp_path / "out.npy", model=engine).rows == 1


def test_every_line_of_a_text_file_has_a_vector(tmp_path: Path, engine: EmbeddingEngine, wanted: Any) -> None:
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
    target = embed_file(tmp_path / "in.txt", tmp_path / "out.npy", model=engine).target
    same(np.load(target), wanted)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "npy", "parquet"])
def test_a_file_without_rows(suffix: str, tmp_path: Path, engine: EmbeddingEngine) -> None:
    (tmp_path / "in.txt").touch()
    target = tmp_path / f"out.{suffix}"
    assert embed_file(tmp_path / "in.txt", target, model=engine).rows == 0
    if suffix == "npy":
        assert np.load(target).shape == (0, 384)
    else:
        text = "" if suffix == "parquet" else target.read_text("utf-8")
        assert {"json": "[\n]\n", "jsonl": "", "parquet": ""}[suffix] == text


@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_precisions(precision: Any, lines: Path, engine: EmbeddingEngine, wanted: Any) -> None:
    expected = quantize(wanted, precision, unit_ranges(384))
    target = embed_file(lines, lines.with_name("out.npy"), model=engine, precision=precision, part_rows=2).target
    found = np.load(target)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    (lines.parent / "in.txt").write_text("\n".join(TEXTS), "utf-8")
    read = pq.read_table(
        embed_file(lines.parent / "in.txt", lines.with_name("out.parquet"), model=engine, precision=precision).target
    )
    np.testing.assert_array_equal(np.array(read["embedding"].to_pylist(), expected.dtype), expected)


@pytest.fixture
def begun(tmp_path: Path, engine: EmbeddingEngine) -> tuple[Path, Path]:
    """Return the source and target of a run that failed at its sixth row, after five parts of one row each."""
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("\n".join([*TEXTS, "long " * 60]), "utf-8")
    with pytest.raises(InputTooLongError, match=r"in\.txt: texts\[5\] has 61 tokens"):
        embed_file(source, target, model=engine, part_rows=1, max_length=50, truncate="error")
    assert len(list(tmp_path.glob("out.npy.parts/part-*"))) == 5
    return source, target


def test_a_failed_run_is_continued(begun: tuple[Path, Path], engine: EmbeddingEngine, wanted: Any) -> None:
    with pytest.raises(InputTooLongError, match=r"in\.txt, after the 5 rows that were done: texts\[0\] has 61"):
        embed_file(*begun, model=engine, part_rows=1, max_length=50, truncate="error")
    assert embed_file(*begun, model=engine, part_rows=1, max_length=70, truncate="error").resumed == 5
    same(np.load(begun[1])[:5], wanted)
    assert not begun[1].with_name("out.npy.parts").exists()


def test_a_run_with_other_values_is_refused_without_restart(
    begun: tuple[Path, Path], engine: EmbeddingEngine, wanted: Any
) -> None:
    options: Any = {"model": engine, "part_rows": 1, "max_length": 70, "truncate": "error"}
    with pytest.raises(ValueError, match=r"a run with a different instruction: .* or pass restart=True"):
        embed_file(*begun, instruction="Find it", **options)
    begun[0].write_text("\n".join(TEXTS), "utf-8")
    with pytest.raises(ValueError, match="a run with a different source, rows: "):
        embed_file(*begun, **options)
    report = embed_file(*begun, restart=True, **options)
    assert (report.rows, report.resumed) == (5, 0)
    same(np.load(begun[1]), wanted)


def test_a_damaged_part_is_computed_again(begun: tuple[Path, Path], engine: EmbeddingEngine, wanted: Any) -> None:
    part = begun[1].with_name("out.npy.parts") / "part-00000002.npy"
    part.write_bytes(part.read_bytes()[:-100])
    report = embed_file(*begun, model=engine, part_rows=1, max_length=70, truncate="error")
    assert report.resumed == 2
    same(np.load(begun[1])[:5], wanted)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_part_with_another_number_of_rows_is_computed_again(
    rows: int, begun: tuple[Path, Path], engine: EmbeddingEngine, wanted: Any
) -> None:
    part = begun[1].with_name("out.npy.parts") / "part-00000002.npy"
    np.save(part, np.zeros((rows, 384), np.float32))  # a valid file
    report = embed_file(*begun, model=engine, part_rows=1, max_length=70, truncate="error")
    assert report.resumed == 2
    same(np.load(begun[1])[:5], wanted)


def test_a_source_that_changes_during_the_run_is_an_error(lines: Path, engine: EmbeddingEngine) -> None:
    class Changing(JsonLinesSource):
        number = 0

        def fingerprint(self) -> str:
            self.number += 1
            return str(self.number)

    with pytest.raises(ValueError, match=r"in\.jsonl was changed while it was embedded.*--restart"):
        embed_file(Changing(lines, "text"), lines.with_name("out.npy"), model=engine)
    assert not lines.with_name("out.npy").exists()


def test_a_run_that_fails_before_its_first_part_leaves_nothing(tmp_path: Path, engine: EmbeddingEngine) -> None:
    (tmp_path / "in.txt").write_text("long " * 60, "utf-8")
    with pytest.raises(InputTooLongError):
        embed_file(tmp_path / "in.txt", tmp_path / "out.npy", model=engine, max_length=50, truncate="error")
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_an_existing_target_is_kept_without_overwrite(lines: Path, engine: EmbeddingEngine) -> None:
    target = lines.with_name("out.npy")
    target.write_text("mine")
    with pytest.raises(FileExistsError, match=r"out\.npy exists: pass overwrite=True"):
        embed_file(lines, target, model=engine)
    assert target.read_text() == "mine"
    assert embed_file(lines, target, model=engine, overwrite=True).rows == 5
    assert np.load(target).shape == (5, 384)


def test_only_one_process_writes_a_target(lines: Path, engine: EmbeddingEngine) -> None:
    target = lines.with_name("out.npy")
    with (
        locked(lines.with_name("out.npy.parts")),
        pytest.raises(OSError, match=r"another process is at work in .*out\.npy\.parts"),
    ):
        embed_file(lines, target, model=engine)
    assert embed_file(lines, target, model=engine).rows == 5


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("in.jsonl", b'{"body": "a"}\n', "row 1 has no column 'text', but 'body'"),
        ("in.jsonl", b'{"text": "a"}\n{"text": null}\n', "row 2: column 'text' is empty, not a text"),
        ("in.jsonl", b'{"text": 7}\n', "row 1: column 'text' is a value of type int, not a text"),
        ("in.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("in.jsonl", b'["a"]\n', "line 1 is not a JSON object"),
        ("in.jsonl", b'{"text": "\\ud800"}\n', "row 1 holds a lone surrogate .* at character 0"),
        ("in.jsonl", b'{"text": "a", "embedding": 1}\n', "has a column 'embedding' already"),
        ("in.txt", b"a\n\xff\n", "line 2 is not UTF-8"),
        ("in.csv", b"text,id\na\n", "row 1 has 1 cells, but there are 2 columns"),
        ("in.csv", b"text,text\na,b\n", "two columns 'text'"),
        ("in.csv", b"text\n\xff\n", "cannot be read as CSV in UTF-8"),
        ("in.parquet", b"text", "cannot be read as Parquet"),
        ("in.json", b"[]", "rows are read from JSON Lines"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_before_anything_is_computed(
    name: str, content: bytes, expected: str, tmp_path: Path, engine: EmbeddingEngine
) -> None:
    (tmp_path / name).write_bytes(content)
    before = engine.stats().texts
    with pytest.raises(ValueError, match=expected):
        embed_file(tmp_path / name, tmp_path / "out.jsonl", model=engine)
    assert engine.stats().texts == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        ("out.txt", {}, "must end in one of .json"),
        ("out.npy", {"part_rows": 0}, "part_rows must be a whole number from 1"),
        ("out.npy", {"precision": "int8", "normalize": False}, "leave out normalize=False"),
    ],
)
def test_wrong_arguments_are_refused(
    target: str, options: Any, expected: str, lines: Path, engine: EmbeddingEngine
) -> None:
    with pytest.raises(ValueError, match=expected):
        embed_file(lines, lines.with_name(target), model=engine, **options)


def test_the_progress_bar_counts_all_rows(lines: Path, engine: EmbeddingEngine, capsys: pytest.CaptureFixture[str]) -> None:
    embed_file(lines, lines.with_name("out.npy"), model=engine, show_progress=True)
    assert "5/5" in capsys.readouterr().err
    embed_file(lines, lines.with_name("out.jsonl"), model=engine)
    assert capsys.readouterr() == ("", "")


def test_parts_manifest_and_target_survive_a_power_cut(lines: Path, engine: EmbeddingEngine) -> None:
    target = lines.with_name("out.npy")
    with watched_renames() as renames:
        embed_file(lines, target, model=engine, part_rows=2)
    names = [rename.target.name for rename in renames]
    assert names == ["manifest.json", *(f"part-{number:08d}.npy" for number in range(3)), "manifest.json", "out.npy"]
    assert [rename for rename in renames if not rename.durable] == []
