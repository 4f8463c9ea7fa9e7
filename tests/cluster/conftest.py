"""A cluster of two nodes on this machine, and a corpus."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from mlx_qwen_embeddings import EmbeddingEngine
from tests.cluster.corpora import COUNT, WIDTH, texts, write

NODES = 2
STORE: Any = {"object_store_memory": 100 * 2**20}
"""Of each node, in bytes."""


def new_cluster() -> Cluster:
    """Start a head without CPUs, connect to it, and add nodes to compute on.

    Of the nodes that are there Ray chooses any for the driver; one that has it must not be removed.
    """
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **STORE})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
    for _ in range(NODES):
        cluster.add_node(num_cpus=2, **STORE)
    return cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Give a cluster of two nodes with two CPUs each, and this process connected to it."""
    # Ray's files in a folder of the tests' own; its name is short, since that of a socket must be, and a Mac's is not.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")  # else two nodes are refused on a Mac
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # else every other program of the machine goes first
        cluster = new_cluster()
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def three_nodes(cluster: Cluster) -> Iterator[Cluster]:
    """Give the cluster with a node more, so that one may die."""
    cluster.add_node(num_cpus=2, **STORE)
    yield cluster
    while len(cluster.worker_nodes) > NODES:
        cluster.remove_node(next(iter(cluster.worker_nodes)))
    cluster.wait_for_nodes(60)  # a dead one is counted for a while


@pytest.fixture
def gpu_node(cluster: Cluster) -> Iterator[None]:
    """Let the cluster have a node of which Ray is told that it has a GPU."""
    node = cluster.add_node(num_cpus=2, num_gpus=1, **STORE)
    yield
    cluster.remove_node(node)
    cluster.wait_for_nodes(60)


@pytest.fixture(scope="session")
def engine() -> Iterator[EmbeddingEngine]:
    """Give the engine of a single process."""
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write ``COUNT`` texts to one file of four row groups."""
    return write(tmp_path_factory.mktemp("corpus") / "in.parquet", COUNT)


@pytest.fixture(scope="session")
def wanted(engine: EmbeddingEngine) -> Any:
    """Give the vectors of the corpus as a single process computes them."""
    return engine.embed_documents(texts(COUNT), dimensions=WIDTH)
