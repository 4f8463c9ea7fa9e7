"""A cluster of two nodes on this machine, and a corpus."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from corpora import COUNT, WIDTH, texts, write
from ray.cluster_utils import Cluster

from mlx_qwen_embeddings import EmbeddingEngine


def new_cluster(nodes: int = 2, cpus: int = 2) -> Cluster:
    """Start a head without CPUs, where the driver is, and nodes to compute on."""
    store: Any = {"object_store_memory": 100 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, **store}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=cpus, **store)
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
        ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


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
