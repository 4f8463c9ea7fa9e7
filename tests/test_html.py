"""What notebooks show of engines and results: short, and escaped."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from mlx_qwen_embeddings import EmbeddingEngine, EngineStats, VerifyReport
from mlx_qwen_embeddings._html import NotebookTable, Table
from mlx_qwen_embeddings.bulk import BulkReport, CorpusReport
from mlx_qwen_embeddings.search import IndexReport
from mlx_qwen_embeddings.similarity import Clusters
from mlx_qwen_embeddings.tools.bench import BenchReport, Latency, Throughput
from mlx_qwen_embeddings.tools.evaluate import Score
from mlx_qwen_embeddings.tools.verify import Check

BAD = "<script>alert('x')</script> & <b>"


def cells(thing: NotebookTable) -> list[list[str]]:
    """Return the text of each cell; fail if the markup is not well formed."""
    table = ET.fromstring(thing._repr_html_())  # noqa: S314 - our own
    assert {element.tag for element in table.iter()} <= {"table", "caption", "b", "tr", "th", "td"}
    return [["".join(cell.itertext()) for cell in row] for row in table]


def test_an_engine_shows_itself_without_loading_its_model(fresh: EmbeddingEngine) -> None:
    assert cells(fresh) == [["EmbeddingEngine"], ["model", "nano"], ["state", "loaded by the first call"]]
    assert not fresh.loaded
    fresh.embed_query("a")
    shown = dict(cells(fresh)[1:])
    assert shown["state"] == "loaded"
    assert (shown["dimensions"], shown["tokens of a text"]) == ("384", "2,048")
    fresh.close()
    assert ["state", "closed"] in cells(fresh)


def test_a_model_that_is_not_here_is_not_looked_for() -> None:
    with EmbeddingEngine(f"/nowhere/{BAD}", cache_bytes=5000) as engine:
        assert cells(engine)[1] == ["model", f"/nowhere/{BAD}"]
        assert ["cache_bytes", "5,000"] in cells(engine)


def test_counters() -> None:
    stats = EngineStats(texts=1200, cache_hits=200, cache_misses=1000, tokens=90, padding_tokens=10, cache_bytes=2_500_000)
    shown = dict(cells(stats)[1:])
    assert shown["texts"] == "1,200"
    assert shown["from the cache"] == "200"
    assert shown["padding"] == "10.0%"
    assert shown["cache"] == "0 vectors, 2.5 MB"
    assert "failed" not in shown
    failed = dict(cells(EngineStats(failures={BAD: 3}, persistent_hits=7, cache_hits=9))[1:])
    assert failed["failed"] == f"{BAD}: 3"
    assert failed["from the cache"] == "9, 7 of them from the file"


def test_a_report_of_checks_has_remedies_where_one_failed() -> None:
    good, bad = Check("one", ok=True, expected="1", found="1"), Check("two", ok=False, expected="2", found=BAD, remedy="x")
    assert cells(VerifyReport("nano", (good,)))[1:] == [["✓ one", "1"]]
    assert cells(VerifyReport(BAD, (good, bad)))[-1] == ["✗ two", f"{BAD}, not 2: x"]


def test_a_finished_file_and_a_score() -> None:
    report = BulkReport(Path("out.parquet"), 20_000, 512, 384, 1.234)
    assert cells(report) == [
        ["out.parquet"],
        ["rows", "20,000"],
        ["from an earlier run", "512"],
        ["dimensions", "384"],
        ["time", "1.23 s"],
    ]
    assert cells(Score(BAD, "nDCG@10", 0.85, 350, 150, 1.0))[0] == [BAD]
    assert cells(Score("pairs.tsv", "Spearman", 0.85, 350, 0, 1.0))[1:] == [["Spearman", "0.8500"], ["pairs", "350"]]


def test_a_finished_corpus_and_an_index() -> None:
    assert cells(CorpusReport(Path(BAD), 20_000, 512, 384, 1.234, 20)) == [
        [BAD],
        ["parts", "20"],
        ["rows", "20,000"],
        ["from an earlier run", "512"],
        ["dimensions", "384"],
        ["time", "1.23 s"],
    ]
    report = IndexReport(files=1200, changed=3, removed=1, passages=9000, embedded=40, skipped=())
    assert cells(report) == [
        ["Index"],
        ["files", "1,200, 3 of them new or changed"],
        ["removed", "1"],
        ["passages", "9,000"],
        ["embedded now", "40"],
    ]
    assert cells(replace(report, skipped=(BAD, "other")))[-1] == ["skipped", f"2, the first: {BAD}"]


def test_a_measurement() -> None:
    throughput, latency = [Throughput(8, 1234.56, 98765.4)], [Latency(4, 56.78, 1.23, 4.5, 1234.5)]
    report = BenchReport(BAD, "cpu", "float32", 0.25, throughput, latency, 321.4, 60.0)
    assert cells(report) == [
        [BAD],
        ["computes", "float32 on cpu"],
        ["loaded in", "0.2 s"],
        ["8 per call", "1,234.6 texts/s, 98,765 tokens/s"],
        ["4 clients", "56.8 queries/s, p50 1.2, p99 1,234.5 ms"],
        ["from the cache", "321 times as fast"],
    ]


def test_groups_and_only_the_largest_of_many() -> None:
    def groups(*sizes: int) -> Clusters:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        central = tuple(np.flatnonzero(labels == group)[:2] for group in range(len(sizes)))
        return Clusters(labels, central, np.zeros((len(sizes), 4), np.float32))

    assert cells(groups(3, 1)) == [
        ["2 groups of 4 vectors"],
        ["group 0", "3, central rows 0, 1"],
        ["group 1", "1, central rows 3"],
    ]
    many = cells(groups(*[1200] * 10, 2, 1))
    assert many[0] == ["12 groups of 12,003 vectors"]
    assert many[-2:] == [["group 9", "1,200, central rows 10800, 10801"], ["2 more", "3"]]


def test_cells() -> None:
    class Shown(NotebookTable):
        def _table(self) -> Table:
            return "a", {"b": True, "c": 0.123456, "d": 12345, "e": None}

    assert cells(Shown())[1:] == [["b", "yes"], ["c", "0.1235"], ["d", "12,345"], ["e", "None"]]
