"""``mlx-qwen bench``: the figures are consistent, printed and drawn. No test depends on the speed of this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen_embeddings.plot import plot_bench
from mlx_qwen_embeddings.tools import bench
from mlx_qwen_embeddings.tools.bench import BenchReport, Latency, Throughput, run_bench
from tests.support.command_line import run as run_command

REPORT = BenchReport(
    "nano",
    "cpu",
    "float32",
    0.25,
    [Throughput(1, 100.0, 2000.5), Throughput(8, 400.0, 8000.0)],
    [Latency(1, 500.0, 1.5, 2.5, 1234.5)],
    45.6,
    60.0,
)


def run(*arguments: object) -> tuple[int, str, str]:
    return run_command("bench", *arguments)


@pytest.fixture
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "run_bench", lambda *_, **__: REPORT)


def test_a_short_run_measures_every_row() -> None:
    report = run_bench("nano", seconds=1)
    assert (report.model, report.device in {"cpu", "gpu"}) == ("nano", True)
    # A busy machine leaves out the larger ones.
    assert [row.batch_size for row in report.throughput] == [1, 8, 32, 128][: len(report.throughput)]
    assert [row.clients for row in report.latency] == [1, 4, 16, 64][: len(report.latency)]
    for row in report.throughput:
        assert 10 < row.tokens_per_second / row.texts_per_second < 300  # tokens of a paragraph
    assert all(0 < row.p50 <= row.p95 <= row.p99 for row in report.latency)
    # One client asks without a break, so its queries fill the time.
    assert report.latency[0].queries_per_second * report.latency[0].p50 / 1000 < 1.7
    assert report.cache_speedup > 1
    assert report.seconds >= 0.9


def test_what_would_take_too_long_is_left_out() -> None:
    class Slow:
        tokens = 0

        def stats(self) -> Any:
            return self

        def embed_documents(self, texts: list[str]) -> None:
            self.tokens += 7 * len(texts)

    clock = iter(range(0, 10_000, 5))  # the clock advances by five seconds each time it is read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_qwen_embeddings.tools.bench.time.perf_counter", lambda: next(clock))
        rows = bench._throughput(Slow(), ["a", "b"], 10)  # type: ignore[arg-type]
    # Two calls of a text take ten seconds; eight texts would take forty.
    assert rows == [Throughput(1, 0.2, 1.4)]


@pytest.mark.usefixtures("_measured")
def test_the_report_as_text() -> None:
    assert run("-m", "nano") == (
        0,
        """nano, cpu, float32: loaded in 0.2 s

texts per call  texts/s  tokens/s
1                 100.0     2,000
8                 400.0     8,000

clients  queries/s  p50 ms  p95 ms   p99 ms
1            500.0     1.5     2.5  1,234.5

from the cache: 46 times as fast
""",
        "",
    )


@pytest.mark.usefixtures("_measured")
def test_the_report_as_json_and_as_a_picture(tmp_path: Path) -> None:
    status, out, err = run("-m", "nano", "--json", "--plot", tmp_path / "out.png")
    assert (status, err) == (0, "")
    assert json.loads(out) == asdict(REPORT)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_every_figure(tmp_path: Path) -> None:
    plot_bench(REPORT, tmp_path / "out.svg")
    drawing = (tmp_path / "out.svg").read_text("utf-8")
    for words in ("texts per call", "tokens per second", "concurrent clients", "milliseconds per query", "p99"):
        assert f"<!-- {words} -->" in drawing


@pytest.mark.usefixtures("_measured")
def test_an_unknown_picture_type_is_refused_before_measuring(tmp_path: Path) -> None:
    status, out, err = run("--plot", tmp_path / "out.txt")
    assert (status, out) == (2, "")
    assert "--plot takes a .png, .svg or .pdf file" in err
