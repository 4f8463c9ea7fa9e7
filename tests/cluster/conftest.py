"""Fixtures: a Ray cluster of two nodes on this machine, and a corpus."""

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
    """Yield a cluster of two nodes with two CPUs each, and connect this process to it."""
    # Ray keeps sockets in this folder. Their paths must be short, and those in a Mac's temporary folder are too long.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")  # otherwise a Mac refuses a second node
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # otherwise Ray's workers yield to every other program
        cluster = new_cluster()
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def three_nodes(cluster: Cluster) -> Iterator[Cluster]:
    """Yield the cluster with one more node, so that one may die."""
    add_node(cluster)
    yield cluster
    while len(cluster.worker_nodes) > NODES:
        cluster.remove_node(next(iter(cluster.worker_nodes)))
    cluster.wait_for_nodes(60)  # Ray counts a dead node for a while


@pytest.fixture
def gpu_node(cluster: Cluster) -> Iterator[None]:
    """Add a node that claims to have a GPU."""
    node = add_node(cluster, num_gpus=1)
    yield
    cluster.remove_node(node)
    cluster.wait_for_nodes(60)


@pytest.fixture(scope="session")
def engine() -> Iterator[EmbeddingEngine]:
    """Yield an engine in this process."""
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        yield engine


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write ``COUNT`` texts to one file with four row groups, and return its path."""
    return write(tmp_path_factory.mktemp("corpus") / "in.parquet", COUNT)


@pytest.fixture(scope="session")
def wanted(engine: EmbeddingEngine) -> Any:
    """Return the vectors of the corpus, computed in this process."""
    return engine.embed_documents(texts(COUNT), dimensions=WIDTH)
