"""A cluster of two nodes on this machine, and a corpus."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from mlx_qwen_embeddings import EmbeddingEngine
from tests.support.numbered_texts import COUNT, WIDTH, texts, write
from tests.support.ray_cluster import NODES, add_node, new_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return a cluster of two nodes with two CPUs each; this process is connected to it."""
    # Ray keeps sockets in this folder, and their names must be short; those in a Mac's temporary folder are too long.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")  # otherwise a Mac refuses a second node
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # otherwise every other program on the machine goes first
        cluster = new_cluster()
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def three_nodes(cluster: Cluster) -> Iterator[Cluster]:
    """Return the cluster with one more node, so that one may die."""
    add_node(cluster)
    yield cluster
    while len(cluster.worker_nodes) > NODES:
        cluster.remove_node(next(iter(cluster.worker_nodes)))
    cluster.wait_for_nodes(60)  # a dead node is counted for a while


@pytest.fixture
def gpu_node(cluster: Cluster) -> Iterator[None]:
    """Add a node that is said to have a GPU."""
    node = add_node(cluster, num_gpus=1)
    yield
    cluster.remove_node(node)
    cluster.wait_for_nodes(60)


@pytest.fixture(scope="session")
def engine() -> Iterator[EmbeddingEngine]:
    """Return the engine of this process."""
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write ``COUNT`` texts to one file of four row groups."""
    return write(tmp_path_factory.mktemp("corpus") / "in.parquet", COUNT)


@pytest.fixture(scope="session")
def wanted(engine: EmbeddingEngine) -> Any:
    """Return the vectors of the corpus, computed in this process."""
    return engine.embed_documents(texts(COUNT), dimensions=WIDTH)
