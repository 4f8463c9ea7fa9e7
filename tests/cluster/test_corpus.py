"""A corpus embedded by a cluster: as by a single process, whatever dies on the way."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from corpora import COUNT, WIDTH, texts, write
from processes import actors, all_end, kill
from ray.cluster_utils import Cluster

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import embed_parquet
from mlx_qwen_embeddings.bulk.corpus_job import CorpusJob
from mlx_qwen_embeddings.errors import ModelLoadError, UnknownModelError, WorkersDiedError
from mlx_qwen_embeddings.ray import Placement, RayRunner
from mlx_qwen_embeddings.ray.model import SharedModel

DRIVER = str(Path(__file__).parent / "driver.py")
FEW = 2000
"""Rows of the runs in which something dies."""


def runner(**places: Any) -> RayRunner:
    return RayRunner(model="nano", placement=Placement(**{"concurrency": 2, "num_cpus": 1, **places}))


def read(folder: Path) -> tuple[list[int], list[str], Any]:
    table = pq.read_table(folder)
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return table["id"].to_pylist(), table["text"].to_pylist(), flat.reshape(len(table), -1)


def check(folder: Path, count: int, wanted: Any) -> None:
    """Hold that each row is there once, in its place, with the vector that a single process gives it."""
    ids, found, vectors = read(folder)
    assert ids == list(range(count))
    assert found == texts(count)
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-5)


class Disturbed(RayRunner):
    """Lets something happen once a few parts are done."""

    def __init__(self, happens: Any, **options: Any) -> None:
        super().__init__(**options)
        self.happens, self.left = happens, -1

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        for done, rows in enumerate(super().run(job, missing), 1):
            yield rows
            if done == 3:
                self.left = len(job.missing())
                self.happens()


def test_a_cluster_gives_what_a_single_process_gives(corpus: Path, tmp_path: Path, cluster: Cluster, wanted: Any) -> None:
    report = embed_parquet(corpus, tmp_path / "out", runner=runner(), dimensions=WIDTH)
    assert (report.rows, report.resumed, report.dimensions) == (COUNT, 0, WIDTH)
    check(tmp_path / "out", COUNT, wanted)
    assert all_end(cluster, "PartWriter")


@pytest.mark.parametrize("victim", ["actor", "node"])
def test_what_dies_in_the_middle_is_made_good(
    victim: str, tmp_path: Path, cluster: Cluster, engine: EmbeddingEngine
) -> None:
    # With a node, its actor dies for good: the CPUs of the others are taken.
    node = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    seen: list[dict[int, int]] = []

    def happens() -> None:
        seen.append(actors(cluster, "PartWriter"))
        if victim == "actor":
            kill(min(seen[0]))
        else:
            cluster.remove_node(node, allow_graceful=False)

    disturbed = Disturbed(happens, model="nano", placement=Placement(num_cpus=2))
    try:
        embed_parquet(
            write(tmp_path / "in.parquet", FEW), tmp_path / "out", runner=disturbed, part_rows=50, dimensions=WIDTH
        )
    finally:
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)
    assert disturbed.left > 5
    assert seen[0]
    check(tmp_path / "out", FEW, engine.embed_documents(texts(FEW), dimensions=WIDTH))


def test_a_killed_driver_is_continued(tmp_path: Path, cluster: Cluster, engine: EmbeddingEngine) -> None:
    source, folder = write(tmp_path / "in.parquet", FEW), tmp_path / "out"
    command = [sys.executable, DRIVER, str(source), str(folder), cluster.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert [driver.stdout.readline() for _ in range(3)] == ["part of 50\n"] * 3
        driver.kill()
    there = {path.name: path.stat().st_ino for path in folder.glob("*.parquet")}
    assert 3 <= len(there) < FEW // 50
    command = [sys.executable, "-m", "mlx_qwen_embeddings", "bulk", str(source), str(folder), "--ray", cluster.address]
    command += ["--model", "nano", "--part-rows", "50", "--dimensions", str(WIDTH), "--concurrency", "2", "--num-cpus", "1"]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    # An actor may have ended a part after its driver was gone.
    resumed = int(said.split(" of them from an earlier run")[0].split(", ")[-1].replace(",", ""))
    assert said.startswith(f"{folder}: {FEW:,} vectors of {WIDTH} dimensions in {FEW // 50} parts, ")
    assert 50 * len(there) <= resumed < FEW
    assert {name: (folder / name).stat().st_ino for name in there} == there
    check(folder, FEW, engine.embed_documents(texts(FEW), dimensions=WIDTH))


def test_without_a_bound_there_are_as_many_actors_as_there_is_room_for(cluster: Cluster) -> None:
    assert Placement(num_cpus=1).wanted() == 5
    assert Placement(num_cpus=2).wanted() == 3
    assert Placement(concurrency=(1, 2), num_cpus=1).wanted() == 2
    assert Placement().resources() == {"num_cpus": 1}
    assert Placement(num_gpus=1).wanted() == 1


def test_an_actor_computes_with_the_cores_that_it_was_given(cluster: Cluster) -> None:
    def threads() -> str:
        return os.environ["OMP_NUM_THREADS"]

    assert ray.get([ray.remote(num_cpus=given)(threads).remote() for given in (1, 2)]) == ["1", "2"]


def test_a_row_without_a_text_is_named(tmp_path: Path, cluster: Cluster) -> None:
    pq.write_table(pa.table({"text": ["a", None, "c"]}), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=r"in\.parquet, row 2: column 'text' is empty, not a text"):
        embed_parquet(tmp_path / "in.parquet", tmp_path / "out", runner=runner(), part_rows=1)
    assert all_end(cluster, "PartWriter")


def test_a_model_that_nobody_knows_is_an_error_here(cluster: Cluster) -> None:
    with pytest.raises(UnknownModelError, match="smal"):
        RayRunner(model="smal").identity()


def test_a_node_with_another_content_is_refused(cluster: Cluster) -> None:
    shared = SharedModel.find("nano", {}, Placement(num_cpus=1))

    def opened(model: SharedModel) -> int:
        return model.open().dimensions

    look = ray.remote(num_cpus=1)(opened)
    assert ray.get(look.remote(shared)) == 384
    for changed, remedy in (("fingerprint", "rsync -a"), ("dtype", "give dtype=")):
        other = SharedModel(shared.settings, shared.identity._replace(**{changed: "other"}))
        with pytest.raises(ModelLoadError, match=rf"would not go together: .*{remedy}"):
            ray.get(look.remote(other))


def test_a_part_that_ends_its_actor_again_and_again_ends_the_run(tmp_path: Path, cluster: Cluster) -> None:
    class Fatal(CorpusJob):
        def write(self, number: int, engine: Any, reader: Any) -> int:
            os._exit(1)

    class Sends(RayRunner):
        def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
            fatal = Fatal(job.corpus, job.folder, job.part_rows, job.role, job.vector_column, job.options)
            yield from super().run(fatal, missing)

    sends = Sends(model="nano", placement=Placement(concurrency=1, num_cpus=1))
    with pytest.raises(WorkersDiedError, match=r"3 actors died over part 0, for lack of memory maybe"):
        embed_parquet(write(tmp_path / "in.parquet", 5), tmp_path / "out", runner=sends)
