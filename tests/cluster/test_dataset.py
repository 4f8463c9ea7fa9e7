"""Check that a Ray dataset gets the same vectors as in a single process, even when actors or nodes die."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.data import Dataset

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.ray import embed_dataset
from tests.support.numbered_texts import COUNT, WIDTH, texts, write
from tests.support.ray_cluster import actors, are_gone, kill, remove_node, running

FEW = 1500


def options(**more: Any) -> dict[str, Any]:
    return {"model": "nano", "dimensions": WIDTH, "concurrency": 2, "num_cpus": 1} | more


def collect(dataset: Dataset) -> pa.Table:
    return pa.concat_tables([ray.get(block) for block in dataset.to_arrow_refs()]).sort_by("id")


def vectors(table: pa.Table, name: str = "embedding") -> Any:
    return table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1)


def test_the_vectors_are_those_of_a_single_process(corpus: Path, cluster: Cluster, wanted: Any) -> None:
    table = collect(embed_dataset(ray.data.read_parquet(str(corpus)), **options()))
    assert table["id"].to_pylist() == list(range(COUNT))
    assert table["text"].to_pylist() == texts(COUNT)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), WIDTH)
    np.testing.assert_allclose(vectors(table), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("victim", ["actor", "node"])
def test_an_actor_or_a_node_dies_in_the_middle(
    victim: str, tmp_path: Path, three_nodes: Cluster, engine: EmbeddingEngine
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def wait_for_the_kill(table: pa.Table) -> pa.Table:
        if table["id"][0].as_py() >= FEW // 2:
            gate.open("rb").close()  # blocks until it is opened for writing
        return table

    source = ray.data.read_parquet(str(write(tmp_path / "in.parquet", FEW)), override_num_blocks=1)
    gated = source.repartition(target_num_rows_per_block=50).map_batches(
        wait_for_the_kill, batch_format="pyarrow", batch_size=50, num_cpus=0
    )
    found, node = list[pa.Table](), -1
    with ExitStack() as at_the_end:
        for batch in embed_dataset(gated, batch_rows=50, **options()).iter_batches(batch_size=50, batch_format="pyarrow"):
            if not found:
                there = actors(three_nodes, "TableEmbedder")
                assert there
                actor, node = min(there.items())
                kill(actor) if victim == "actor" else remove_node(three_nodes, node)
                # Half of the rows still wait at the gate, so the actor cannot have ended because it was done.
                assert are_gone([actor], "TableEmbedder")
                at_the_end.callback(os.close, os.open(gate, os.O_RDWR))
            found.append(batch)
    assert victim == "actor" or node not in running("TableEmbedder").values()
    table = pa.concat_tables(found).sort_by("id")
    assert table["id"].to_pylist() == list(range(FEW))
    wanted = engine.embed_documents(texts(FEW), dimensions=WIDTH)
    np.testing.assert_allclose(vectors(table), wanted, rtol=0, atol=1e-5)


def test_role_options_and_column_names(cluster: Cluster, engine: EmbeddingEngine) -> None:
    dataset = ray.data.from_arrow(pa.table({"id": range(9), "body": texts(9)}))
    called: dict[str, Any] = {"instruction": "Find it", "precision": "int8"}
    table = collect(embed_dataset(dataset, "body", role="query", vector_column="v", **options(**called)))
    assert table.column_names == ["id", "body", "v"]
    np.testing.assert_array_equal(vectors(table, "v"), engine.embed_queries(texts(9), dimensions=WIDTH, **called))


def test_a_missing_column_is_an_error(cluster: Cluster) -> None:
    dataset = ray.data.from_arrow(pa.table({"id": [1], "body": ["a"]}))
    with pytest.raises(Exception, match="the dataset has the columns id, body: column='text' must be one of them"):
        embed_dataset(dataset, **options()).materialize()


def test_a_wrong_option_is_refused_at_once(cluster: Cluster) -> None:
    dataset = ray.data.from_arrow(pa.table({"text": ["a"]}))
    with pytest.raises(ValueError, match="dimensions"):
        embed_dataset(dataset, **options(dimensions=0))


def test_an_actor_too_large_for_every_node_is_refused(cluster: Cluster) -> None:
    dataset = ray.data.from_arrow(pa.table({"text": ["a"]}))
    with pytest.raises(ValueError, match=r"can hold an actor of num_cpus=3: the largest has 2 CPUs"):
        embed_dataset(dataset, **options(concurrency=1, num_cpus=3))


@pytest.mark.parametrize("places", [{"concurrency": 2, "num_cpus": 2}, {"concurrency": (4, 8), "num_cpus": 1}])
def test_actors_that_leave_no_cpu_for_reading_are_refused(places: dict[str, Any], cluster: Cluster) -> None:
    dataset = ray.data.from_arrow(pa.table({"text": ["a"]}))
    with pytest.raises(ValueError, match=r"leave none of the cluster's 4 to read with"):
        embed_dataset(dataset, **options(**places))
