"""Check that a cluster writes the same output as a single process, even when actors, nodes or the driver die."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import embed_parquet
from mlx_qwen_embeddings.bulk.corpus import CorpusJob
from mlx_qwen_embeddings.errors import ModelLoadError, UnknownModelError, WorkersDiedError
from mlx_qwen_embeddings.ray import Placement, RayRunner
from mlx_qwen_embeddings.ray.model import SharedModel
from tests.support.numbered_texts import COUNT, WIDTH, texts, write
from tests.support.ray_cluster import actors, add_node, all_end, are_gone, kill, remove_node, running

DRIVER = str(Path(__file__).parent / "driver.py")
FEW = 2000
"""Rows in the runs in which something dies."""


def runner(**places: Any) -> RayRunner:
    return RayRunner(model="nano", placement=Placement(**{"concurrency": 2, "num_cpus": 1, **places}))


def read(folder: Path) -> tuple[list[int], list[str], Any]:
    table = pq.read_table(folder)
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return table["id"].to_pylist(), table["text"].to_pylist(), flat.reshape(len(table), -1)


def check(folder: Path, count: int, wanted: Any) -> None:
    """Check that every row is there once, in order, with the vector that a single process computes."""
    ids, found, vectors = read(folder)
    assert ids == list(range(count))
    assert found == texts(count)
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-5)


class Disturbed(RayRunner):
    """Calls functions after given numbers of finished parts."""

    def __init__(self, happens: dict[int, Callable[[], None]], **options: Any) -> None:
        super().__init__(**options)
        self.happens, self.left = happens, list[int]()

    def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
        for done, rows in enumerate(super().run(job, missing), 1):
            yield rows
            if done in self.happens:
                self.happens[done]()
                self.left.append(len(job.missing()))


def test_the_output_is_that_of_a_single_process(corpus: Path, tmp_path: Path, cluster: Cluster, wanted: Any) -> None:
    report = embed_parquet(corpus, tmp_path / "out", runner=runner(), dimensions=WIDTH)
    assert (report.rows, report.resumed, report.dimensions) == (COUNT, 0, WIDTH)
    check(tmp_path / "out", COUNT, wanted)
    assert all_end(cluster, "PartWriter")


def test_an_actor_and_a_node_die_in_the_middle(tmp_path: Path, three_nodes: Cluster, engine: EmbeddingEngine) -> None:
    # Each actor has a node of its own. The one that is killed is restarted; the node that is removed does not return.
    ended: list[int] = []

    def end(*, whole_node: bool) -> None:
        there = actors(three_nodes, "PartWriter")
        assert there
        actor, node = min(there.items())
        remove_node(three_nodes, node) if whole_node else kill(actor)
        assert are_gone([actor], "PartWriter")
        ended.append(node)

    disturbed = Disturbed(
        {3: partial(end, whole_node=False), 8: partial(end, whole_node=True)}, model="nano", placement=Placement(num_cpus=2)
    )
    embed_parquet(write(tmp_path / "in.parquet", FEW), tmp_path / "out", runner=disturbed, part_rows=50, dimensions=WIDTH)
    assert len(disturbed.left) == 2
    assert min(disturbed.left) > 5
    assert ended[1] not in running("PartWriter").values()
    check(tmp_path / "out", FEW, engine.embed_documents(texts(FEW), dimensions=WIDTH))


def test_a_run_whose_driver_was_killed_is_continued(tmp_path: Path, cluster: Cluster, engine: EmbeddingEngine) -> None:
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
    # An actor may have finished a part after its driver was killed.
    resumed = int(said.split(" of them from an earlier run")[0].split(", ")[-1].replace(",", ""))
    assert said.startswith(f"{folder}: {FEW:,} vectors of {WIDTH} dimensions in {FEW // 50} parts, ")
    assert 50 * len(there) <= resumed < FEW
    assert {name: (folder / name).stat().st_ino for name in there} == there
    check(folder, FEW, engine.embed_documents(texts(FEW), dimensions=WIDTH))


def test_the_parts_of_a_permanently_lost_node_go_to_other_actors(
    tmp_path: Path, cluster: Cluster, engine: EmbeddingEngine
) -> None:
    # Each actor has a node of its own, and no other node has room for it.
    ended: list[int] = []

    def end() -> None:
        actor, node = min(actors(cluster, "PartWriter").items())
        remove_node(cluster, node)
        assert are_gone([actor], "PartWriter")
        ended.append(node)

    disturbed = Disturbed({6: end}, model="nano", placement=Placement(concurrency=2, num_cpus=2))
    try:
        embed_parquet(
            write(tmp_path / "in.parquet", FEW), tmp_path / "out", runner=disturbed, part_rows=50, dimensions=WIDTH
        )
    finally:
        add_node(cluster)
    assert disturbed.left[0] > 5
    check(tmp_path / "out", FEW, engine.embed_documents(texts(FEW), dimensions=WIDTH))


@pytest.mark.usefixtures("gpu_node")
def test_an_actor_gets_a_gpu_where_there_is_one() -> None:
    def given() -> float:
        return float(ray.get_runtime_context().get_assigned_resources()["GPU"])

    assert Placement().resources() == {"num_gpus": 1.0}
    assert ray.get(ray.remote(**Placement().resources())(given).remote()) == 1


@pytest.mark.parametrize(("places", "largest"), [({"num_cpus": 3}, "2 CPUs"), ({"num_gpus": 1}, "0 GPUs")])
def test_an_actor_too_large_for_every_node_is_refused(places: dict[str, Any], largest: str, cluster: Cluster) -> None:
    (asked,) = (f"{name}={amount}" for name, amount in places.items())
    with pytest.raises(ValueError, match=f"can hold an actor of {asked}: the largest has {largest}"):
        RayRunner(model="nano", placement=Placement(concurrency=1, **places)).stamp()


def test_an_actor_computes_with_the_cores_that_it_was_given(cluster: Cluster) -> None:
    def threads() -> str:
        return os.environ["OMP_NUM_THREADS"]

    assert ray.get([ray.remote(num_cpus=given)(threads).remote() for given in (1, 2)]) == ["1", "2"]


def test_an_error_of_an_actor_names_the_row_and_ends_all_actors(tmp_path: Path, cluster: Cluster) -> None:
    pq.write_table(pa.table({"text": ["a", None, "c"]}), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=r"in\.parquet, row 2: column 'text' is empty, not a text"):
        embed_parquet(tmp_path / "in.parquet", tmp_path / "out", runner=runner(), part_rows=1)
    assert all_end(cluster, "PartWriter")


def test_an_unknown_model_is_an_error_of_the_driver(cluster: Cluster) -> None:
    with pytest.raises(UnknownModelError, match="smal"):
        RayRunner(model="smal").stamp()


def test_a_node_with_another_model_or_dtype_is_refused(cluster: Cluster) -> None:
    shared = SharedModel.find("nano", {}, Placement(num_cpus=1))

    def opened(model: SharedModel) -> int:
        return model.open().dimensions

    look = ray.remote(num_cpus=1)(opened)
    assert ray.get(look.remote(shared)) == 384
    stamp = shared.stamp
    for other, remedy in ((stamp._replace(fingerprint="other"), "rsync -a"), (stamp._replace(dtype="other"), "set dtype=")):
        with pytest.raises(ModelLoadError, match=rf"cannot be compared: .*{remedy}"):
            ray.get(look.remote(SharedModel(shared.settings, other)))


def test_a_part_that_kills_every_actor_ends_the_run(tmp_path: Path, cluster: Cluster) -> None:
    class Fatal(CorpusJob):
        def write(self, number: int, engine: Any, reader: Any) -> int:
            os._exit(1)

    class Sends(RayRunner):
        def run(self, job: CorpusJob, missing: Sequence[int]) -> Iterator[int]:
            yield from super().run(Fatal(**vars(job)), missing)

    sends = Sends(model="nano", placement=Placement(concurrency=1, num_cpus=1))
    with pytest.raises(WorkersDiedError, match="3 actors died over part 0: they may have run out of memory"):
        embed_parquet(write(tmp_path / "in.parquet", 5), tmp_path / "out", runner=sends)
