"""Test ``embed_parquet``: its output with and without interruptions, and what it refuses."""

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import CorpusReport, embed_parquet
from mlx_qwen_embeddings.bulk.corpus import CorpusJob, LocalRunner
from mlx_qwen_embeddings.bulk.parquet import RangeReader, open_corpus
from mlx_qwen_embeddings.cli.app import app
from mlx_qwen_embeddings.options import OPTIONS, EmbedOptions
from tests.support.power_cut import watched_renames

ROWS = 103


def texts(count: int = ROWS) -> list[str]:
    return [f"Passage {number}{' and so on' * (number % 4)} für Ähnliches" for number in range(count)]


def write_corpus(folder: Path, *, sizes: Sequence[int] = (40, 0, 63), group: int = 17) -> Path:
    """Write files of these sizes. Their row groups do not align with the parts."""
    folder.mkdir()
    start = 0
    for number, size in enumerate(sizes):
        ids = pa.array(range(start, start + size), pa.int64())
        table = pa.table({"id": ids, "text": pa.array(texts(start + size)[start:], pa.string())})
        pq.write_table(table, folder / f"file-{number}.parquet", row_group_size=group)
        start += size
    (folder / "notes.txt").write_text("no rows")
    return folder


def read(folder: Path) -> tuple[pa.Table, Any]:
    table = pq.read_table(folder)
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return table, flat.reshape(len(table), -1)


class Stopped(Exception):  # noqa: N818 - not an error: it simulates the end of the process
    """Ends a run before it is done."""


class StopsAfter(LocalRunner):
    """Computes some parts, then raises ``Stopped``."""

    def __init__(self, engine: EmbeddingEngine, parts: int) -> None:
        super().__init__(engine)
        self.left, self.done = parts, list[int]()

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        for number, rows in zip(missing, super().run(job, missing), strict=False):
            self.done.append(number)
            yield rows
            self.left -= 1
            if not self.left:
                raise Stopped


def test_the_output_has_the_rows_and_vectors_of_the_source(tmp_path: Path, engine: EmbeddingEngine) -> None:
    source, folder = write_corpus(tmp_path / "in"), tmp_path / "out"
    report = embed_parquet(source, folder, model=engine, part_rows=10, dimensions=64)
    assert report == CorpusReport(folder, ROWS, 0, 64, report.seconds, 11)
    assert report.folder == folder
    table, vectors = read(folder)
    assert table["id"].to_pylist() == list(range(ROWS))
    assert table["text"].to_pylist() == texts()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 64)
    np.testing.assert_allclose(vectors, engine.embed_documents(texts(), dimensions=64), rtol=0, atol=1e-6)
    sizes = [pq.read_metadata(path).num_rows for path in sorted(folder.glob("*.parquet"))]
    assert sizes == [10] * 10 + [3]
    assert sorted(path.name for path in (folder / "_job").iterdir()) == ["manifest.json"]


@pytest.mark.parametrize(("start", "stop"), [(0, 103), (0, 1), (16, 18), (39, 41), (33, 90), (102, 103)])
def test_any_range_can_be_read(start: int, stop: int, tmp_path: Path) -> None:
    reader = RangeReader(open_corpus(write_corpus(tmp_path / "in"), "text"))
    assert reader.table(start, stop)["id"].to_pylist() == list(range(start, stop))


def test_a_row_group_is_decoded_once_for_neighbouring_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, decoded = open_corpus(write_corpus(tmp_path / "in"), "text"), list[int]()
    read_row_group = pq.ParquetFile.read_row_group

    def counted(file: Any, number: int) -> Any:
        decoded.append(number)
        return read_row_group(file, number)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    reader = RangeReader(corpus)
    for start in range(0, 40, 5):
        reader.table(start, start + 5)
    assert decoded == [0, 1, 2]


@pytest.mark.parametrize("role", ["document", "query"])
def test_queries_and_documents_are_embedded_differently(role: Any, prompted: str, tmp_path: Path) -> None:
    # Without an instruction: with one, queries and documents get the same prompt.
    with EmbeddingEngine(prompted) as engine:
        embed_parquet(write_corpus(tmp_path / "in", sizes=(6,)), tmp_path / "out", model=engine, role=role)
        wanted = {"document": engine.embed_documents(texts(6)), "query": engine.embed_queries(texts(6))}
    _, vectors = read(tmp_path / "out")
    np.testing.assert_allclose(vectors, wanted[role], rtol=0, atol=1e-6)
    assert np.abs(wanted["document"] - wanted["query"]).max() > 1e-3


@pytest.mark.parametrize("precision", ["int8", "ubinary", "float16"])
def test_vectors_have_the_precision_of_the_call(precision: Any, tmp_path: Path, engine: EmbeddingEngine) -> None:
    source = write_corpus(tmp_path / "in", sizes=(6,))
    embed_parquet(source, tmp_path / "out", model=engine, role="query", instruction="Find it", precision=precision)
    wanted = engine.embed_queries(texts(6), instruction="Find it", precision=precision)
    table, vectors = read(tmp_path / "out")
    assert table.schema.field("embedding").type == pa.list_(pa.from_numpy_dtype(wanted.dtype), wanted.shape[1])
    np.testing.assert_array_equal(vectors, wanted)


def test_a_stopped_run_is_continued_with_the_missing_parts(tmp_path: Path, engine: EmbeddingEngine) -> None:
    source, folder = write_corpus(tmp_path / "in"), tmp_path / "out"
    stopped = StopsAfter(engine, 4)
    with pytest.raises(Stopped):
        embed_parquet(source, folder, runner=stopped, part_rows=10)
    # What a kill or a power cut may leave behind: a half-written file, a missing part, and a part that was cut short.
    (folder / "_job" / "part-00000004.parquet.abc.tmp").write_bytes(b"half")
    (folder / "part-00000001.parquet").unlink()
    whole = (folder / "part-00000002.parquet").read_bytes()
    (folder / "part-00000002.parquet").write_bytes(whole[:-100])
    second = StopsAfter(engine, 100)
    report = embed_parquet(source, folder, runner=second, part_rows=10)
    assert (report.resumed, second.done) == (20, [1, 2, *range(4, 11)])
    assert read(folder)[0]["id"].to_pylist() == list(range(ROWS))
    assert sorted(path.name for path in (folder / "_job").iterdir()) == ["manifest.json"]
    third = StopsAfter(engine, 100)
    assert embed_parquet(source, folder, runner=third, part_rows=10).resumed == ROWS
    assert third.done == []


@pytest.mark.parametrize("rows", [0, 9, 11])
def test_a_part_with_another_number_of_rows_is_computed_again(rows: int, tmp_path: Path, engine: EmbeddingEngine) -> None:
    source, folder = write_corpus(tmp_path / "in", sizes=(25,)), tmp_path / "out"
    embed_parquet(source, folder, model=engine, part_rows=10)
    part = folder / "part-00000001.parquet"
    whole = pq.read_table(part)
    pq.write_table(pa.concat_tables([whole, whole]).slice(0, rows), part)  # a valid Parquet file
    again = StopsAfter(engine, 100)
    assert embed_parquet(source, folder, runner=again, part_rows=10).resumed == 15
    assert again.done == [1]
    assert pq.read_table(part).equals(whole)


def test_parts_and_manifest_survive_a_power_cut(tmp_path: Path, engine: EmbeddingEngine) -> None:
    source = write_corpus(tmp_path / "in", sizes=(25,))
    with watched_renames() as renames:
        embed_parquet(source, tmp_path / "out", model=engine, part_rows=10)
    names = [rename.target.name for rename in renames]
    assert names == ["manifest.json", *(f"part-{number:08d}.parquet" for number in range(3)), "manifest.json"]
    assert [rename for rename in renames if not rename.durable] == []


def test_two_workers_may_write_the_same_part(tmp_path: Path, engine: EmbeddingEngine) -> None:
    corpus = open_corpus(write_corpus(tmp_path / "in"), "text")
    job = CorpusJob(
        source=corpus,
        fingerprint=corpus.footers,
        rows=corpus.rows,
        part_rows=10,
        role="document",
        vector_column="embedding",
        options=EmbedOptions(dimensions=32),
        folder=tmp_path / "out",
    )
    job.state.mkdir(parents=True)
    other: CorpusJob = pickle.loads(pickle.dumps(job))  # noqa: S301 - as another machine would receive it
    reader = RangeReader(corpus)
    assert [each.write(3, engine, reader) for each in (job, other)] == [10, 10]
    assert job.missing() == [0, 1, 2, *range(4, 11)]
    assert list(job.state.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dimensions": 32}, "a run with a different dimensions: .*--restart"),
        ({"part_rows": 20}, "a run with a different part_rows: "),
        ({"role": "query"}, "a run with a different role: "),
        ({"vector_column": "vector"}, "a run with a different vector_column: "),
    ],
)
def test_a_run_with_other_values_is_refused_without_restart(
    change: dict[str, Any], said: str, tmp_path: Path, engine: EmbeddingEngine
) -> None:
    source, folder = write_corpus(tmp_path / "in", sizes=(25,)), tmp_path / "out"
    common: dict[str, Any] = {"model": engine, "part_rows": 10}
    embed_parquet(source, folder, **common)
    with pytest.raises(ValueError, match=said):
        embed_parquet(source, folder, **{**common, **change})
    assert embed_parquet(source, folder, **{**common, **change}, restart=True).resumed == 0


def test_another_source_is_refused(tmp_path: Path, engine: EmbeddingEngine) -> None:
    embed_parquet(write_corpus(tmp_path / "in", sizes=(5,)), tmp_path / "out", model=engine)
    with pytest.raises(ValueError, match="a run with a different source, rows: "):
        embed_parquet(write_corpus(tmp_path / "other", sizes=(6,)), tmp_path / "out", model=engine)


def test_a_source_that_changes_during_the_run_is_an_error(tmp_path: Path, engine: EmbeddingEngine) -> None:
    class Changes(LocalRunner):
        def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
            yield from super().run(job, missing)
            pq.write_table(pa.table({"id": [9], "text": ["new"]}), tmp_path / "in" / "file-0.parquet")

    source = write_corpus(tmp_path / "in", sizes=(5,))
    with pytest.raises(ValueError, match=r"was changed while it was embedded.*--restart"):
        embed_parquet(source, tmp_path / "out", runner=Changes(engine))
    assert not json.loads((tmp_path / "out" / "_job" / "manifest.json").read_text())["finished"]


def test_errors_name_the_file_row_and_column(tmp_path: Path, engine: EmbeddingEngine) -> None:
    source = write_corpus(tmp_path / "in", sizes=(5, 5))
    with pytest.raises(FileNotFoundError, match="neither a Parquet file nor a folder that holds any"):
        embed_parquet(tmp_path / "nowhere", tmp_path / "out", model=engine)
    with pytest.raises(ValueError, match=r"file-0\.parquet, row 1 has no column 'body', but 'id', 'text'"):
        embed_parquet(source, tmp_path / "out", model=engine, column="body")
    with pytest.raises(ValueError, match="has a column 'id' already"):
        embed_parquet(source, tmp_path / "out", model=engine, vector_column="id")
    with pytest.raises(ValueError, match="part_rows must be a whole number from 1"):
        embed_parquet(source, tmp_path / "out", model=engine, part_rows=0)
    with pytest.raises(FileExistsError, match="new or empty folder"):
        embed_parquet(source, source, model=engine)
    assert not (tmp_path / "out").exists()
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["a", "b", None]}), source / "file-1.parquet")
    with pytest.raises(ValueError, match=r"file-1\.parquet, row 3: column 'text' is empty, not a text"):
        embed_parquet(source, tmp_path / "out", model=engine, part_rows=2)
    pq.write_table(pa.table({"text": ["a"]}), source / "file-1.parquet")
    with pytest.raises(ValueError, match=r"file-1\.parquet has other columns than .*file-0\.parquet"):
        embed_parquet(source, tmp_path / "out2", model=engine)


def test_a_run_that_fails_before_its_first_part_leaves_nothing(tmp_path: Path, engine: EmbeddingEngine) -> None:
    source, folder = write_corpus(tmp_path / "in", sizes=(25,)), tmp_path / "out"
    with pytest.raises(ValueError, match="dimensions=9999"):
        embed_parquet(source, folder, model=engine, dimensions=9999)
    assert not folder.exists()
    assert embed_parquet(source, folder, model=engine, dimensions=64).rows == 25
    with pytest.raises(ValueError, match="dimensions=9999"):
        embed_parquet(source, folder, model=engine, dimensions=9999, restart=True)
    assert list(folder.iterdir()) == []  # the folder existed before the run


def test_a_corpus_without_rows_is_finished_at_once(tmp_path: Path, engine: EmbeddingEngine) -> None:
    report = embed_parquet(write_corpus(tmp_path / "in", sizes=(0,)), tmp_path / "out", model=engine)
    assert (report.rows, report.parts) == (0, 0)
    assert json.loads((tmp_path / "out" / "_job" / "manifest.json").read_text())["finished"]


def test_the_manifest_has_every_option_except_those_of_the_run(tmp_path: Path, engine: EmbeddingEngine) -> None:
    given: Any = {"instruction": "Find it", "dimensions": 32, "precision": "float16", "pooling": "mean", "max_length": 50}
    given |= {"normalize": False, "chat_template": "{{ messages[0].content }}"}
    of_the_run: Any = {"timeout": 60.0, "wait": True, "show_progress": False}
    embed_parquet(write_corpus(tmp_path / "in", sizes=(1,)), tmp_path / "out", model=engine, **given, **of_the_run)
    job = json.loads((tmp_path / "out" / "_job" / "manifest.json").read_text())["job"]
    assert given.keys() | {"truncate"} | of_the_run.keys() == OPTIONS.keys()
    assert given.items() <= job.items()
    assert {"model", "device", "dtype", "role", "column", "source"} <= job.keys()
    assert not of_the_run.keys() & job.keys()


def test_on_the_command_line(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in", sizes=(12,))
    command = ["bulk", str(source), str(tmp_path / "out"), "--model", "nano", "--dimensions", "64", "--part-rows", "5"]
    result = CliRunner().invoke(app, command)
    assert result.output == f"{tmp_path / 'out'}: 12 vectors of 64 dimensions in 3 parts\n"
    (tmp_path / "out" / "part-00000002.parquet").unlink()
    again = CliRunner().invoke(app, command)
    assert again.output == f"{tmp_path / 'out'}: 12 vectors of 64 dimensions in 3 parts, 10 of them from an earlier run\n"
    other = CliRunner().invoke(app, [*command, "--precision", "int8"])
    assert (other.exit_code, "a run with a different precision: " in other.output) == (1, True)
